//! `offer list`.

use crate::args::Listing;
use crate::exit::Ended;
use crate::operator::Operator;
use crate::output;

pub(crate) async fn list(arguments: &Listing) -> Ended {
    let page = Operator::open(&arguments.reach).offers().await?;
    if page.offers.is_empty() && !arguments.show.output.is_json() {
        output::note("no open offers");
    }
    output::list(arguments.show.output, &page, &page.offers)
}
