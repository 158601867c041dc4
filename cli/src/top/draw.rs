//! The frame: state and view as text on a terminal of any size. Pure; only visible rows are
//! formatted.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::cluster_page;
use super::fit::places;
use super::listing::{ColumnSpec, ListedRow, RowContext, states_text};
use super::screen::{FrameTime, PAGES, Screen};
use super::state::ClusterState;
use crate::args::TopPage;
use crate::output::{StateTone, cut, span_ms, visible_line, width};

/// Time without an event after which the data counts as old. Masters send one every 5 s.
const OLD_MS: u64 = 6_000;
/// Lines above the body: title, summary, pages.
const HEAD: usize = 3;

const KEYS: [(&str, &str); 8] = [
    ("1 2 3 4 5", "cluster, agents, tasks, frameworks, roles"),
    ("Tab", "the next page; Shift-Tab the former one"),
    (
        "< >",
        "sort by the column before or after, also with the arrows",
    ),
    ("r", "reverse the order"),
    ("/", "filter by text: Enter keeps the filter, Esc clears it"),
    ("Up Down j k", "scroll by a line"),
    (
        "PgUp PgDn Home End",
        "scroll by a page, to the beginning, to the end",
    ),
    ("q", "leave; Ctrl-C too"),
];

/// The source of the data, and how old it is.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkStatus {
    /// The API address of the master that sent the newest event.
    pub(super) master: String,
    /// The time of its arrival, by [`FrameTime::clock_ms`]; `None` before the first one.
    pub(super) event_ms: Option<u64>,
    /// The reason for which no master sends events at present.
    pub(super) problem: Option<String>,
}

/// Everything that a frame shows.
pub(super) struct Shown<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) link: &'a LinkStatus,
    pub(super) time: FrameTime,
    /// Whether colours are used; without them, nothing else changes.
    pub(super) coloured: bool,
}

/// Writes text that comes from the cluster: escape sequences are shown, never executed.
pub(super) struct Painter<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    coloured: bool,
}

impl Painter<'_> {
    pub(super) fn width(&self) -> usize {
        self.area.width.into()
    }

    fn height(&self) -> usize {
        self.area.height.into()
    }

    /// Writes at most `room` cells of a text; nothing outside the terminal.
    pub(super) fn text(&mut self, (x, y): (usize, usize), text: &str, room: usize, style: Style) {
        if x >= self.width() || y >= self.height() {
            return;
        }
        let text = cut(&visible_line(text), room.min(self.width() - x));
        let at =
            |begin: u16, by: usize| begin.saturating_add(u16::try_from(by).unwrap_or(u16::MAX));
        let (x, y) = (at(self.area.x, x), at(self.area.y, y));
        self.buffer.set_string(x, y, text, style);
    }

    /// Writes a whole line.
    pub(super) fn line(&mut self, y: usize, text: &str, style: Style) {
        self.text((0, y), text, self.width(), style);
    }

    /// Writes a text at the right end of a line.
    fn at_end(&mut self, y: usize, text: &str, style: Style) {
        let x = self.width().saturating_sub(width(&visible_line(text)));
        self.text((x, y), text, self.width(), style);
    }

    /// Returns the style of the word of a state.
    pub(super) fn state_style(&self, text: &str) -> Style {
        let word = text.split(' ').next().unwrap_or_default();
        self.tone(StateTone::of(word))
    }

    fn tone(&self, tone: StateTone) -> Style {
        match tone {
            _ if !self.coloured => Style::new(),
            StateTone::Good => Style::new().fg(Color::Green),
            StateTone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            StateTone::Warning => Style::new().fg(Color::Yellow),
            StateTone::Plain => Style::new(),
        }
    }
}

pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws a frame.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen, shown: &Shown<'_>) {
    let area = frame.area();
    let mut painter = Painter {
        buffer: frame.buffer_mut(),
        area,
        coloured: shown.coloured,
    };
    let context = RowContext {
        state: shown.state,
        totals: shown.state.totals(),
        wall_ms: shown.time.wall_ms,
    };
    head(&mut painter, screen, shown);
    // The last line is the footer.
    painter.area.height = area.height.saturating_sub(1);
    let body = painter.height().saturating_sub(HEAD);
    if screen.shows_help {
        help(&mut painter);
    } else if screen.page == TopPage::Cluster {
        screen.arrange(&context, shown.time, body);
        let lines = cluster_page::lines(shown.state, &painter);
        let most = lines.len().saturating_sub(body);
        screen.cluster_offset = screen.cluster_offset.min(most);
        let visible = lines.iter().skip(screen.cluster_offset).take(body);
        for (y, line) in visible.enumerate() {
            for (x, room, text, style) in line {
                painter.text((*x, HEAD + y), text, *room, *style);
            }
        }
    } else {
        // The first line of the body has the headings.
        let rows = screen.arrange(&context, shown.time, body.saturating_sub(1));
        list(&mut painter, screen, &context, &rows);
    }
    painter.area = area;
    footer(&mut painter, screen, shown);
}

fn head(painter: &mut Painter<'_>, screen: &Screen, shown: &Shown<'_>) {
    let (text, tone) = link_text(shown);
    let title = "argosy top";
    if title.len() + 2 + width(&visible_line(&text)) <= painter.width() {
        painter.line(0, title, BOLD);
        painter.at_end(0, &text, painter.tone(tone));
    } else {
        painter.line(0, &text, painter.tone(tone));
    }
    painter.line(1, &summary(shown.state), Style::new());
    pages(painter, screen, shown.state);
}

/// Returns which master sends the data, and how old it is.
fn link_text(shown: &Shown<'_>) -> (String, StateTone) {
    let LinkStatus {
        master,
        event_ms,
        problem,
    } = shown.link;
    let Some(event_ms) = event_ms else {
        return match problem {
            Some(problem) => (problem.clone(), StateTone::Bad),
            None => ("connecting".to_owned(), StateTone::Plain),
        };
    };
    let summary = shown.state.summary.as_ref();
    let masters = summary.map_or(&[][..], |summary| &summary.masters);
    let known = masters.iter().find(|known| known.api_address == *master);
    let name = known.map_or(master.as_str(), |known| &known.node_id);
    let age = shown.time.clock_ms.saturating_sub(*event_ms);
    // In whole seconds, so that frames without news are equal.
    let age_text = match age / 1_000 {
        0 => "0 s".to_owned(),
        seconds => span_ms(seconds * 1_000),
    };
    if problem.is_some() || age > OLD_MS {
        let text = format!("no events since {name}; data {age_text} old");
        return (text, StateTone::Warning);
    }
    match shown.state.loaded() {
        Some(count) => (format!("loading from {name}: {count}"), StateTone::Plain),
        None => (format!("from {name}, {age_text} old"), StateTone::Good),
    }
}

fn summary(state: &ClusterState) -> String {
    let leader = match state.facts.leader.as_str() {
        "" => "no leader".to_owned(),
        leader => format!("leader {leader}"),
    };
    let tasks = match states_text(state) {
        text if text.is_empty() => "no live tasks".to_owned(),
        text => format!("tasks: {text}"),
    };
    format!("{leader}, epoch {}; {tasks}", state.facts.epoch)
}

fn page_name(page: TopPage) -> &'static str {
    match page {
        TopPage::Cluster => "Cluster",
        TopPage::Agents => "Agents",
        TopPage::Tasks => "Tasks",
        TopPage::Frameworks => "Frameworks",
        TopPage::Roles => "Roles",
    }
}

/// Writes the names of the pages, with the present one in brackets.
fn pages(painter: &mut Painter<'_>, screen: &Screen, state: &ClusterState) {
    let count = |page| match page {
        TopPage::Cluster | TopPage::Roles => String::new(),
        TopPage::Agents => format!(" {}", state.lists.agents.len()),
        TopPage::Tasks => format!(" {}", state.lists.tasks.len()),
        TopPage::Frameworks => format!(" {}", state.lists.frameworks.len()),
    };
    let named = |has_counts: bool| {
        let names = PAGES.iter().enumerate().map(|(at, page)| {
            let count = if has_counts {
                count(*page)
            } else {
                String::new()
            };
            let name = format!("{} {}{count}", at + 1, page_name(*page));
            match *page == screen.page {
                true => format!("[{name}]"),
                false => format!(" {name} "),
            }
        });
        names.collect::<String>()
    };
    let present = format!(
        "[{}{}] Tab: next page",
        page_name(screen.page),
        count(screen.page)
    );
    let texts = [named(true), named(false), present];
    let fitting = texts.iter().find(|text| width(text) <= painter.width());
    let text = fitting.unwrap_or(&texts[2]);
    painter.line(2, text, Style::new());
    // The present page is also bold.
    if let (Some(begin), Some(end)) = (text.find('['), text.find(']')) {
        let name = text[begin..=end].to_owned();
        painter.text((begin, 2), &name, name.len(), BOLD);
    }
}

fn help(painter: &mut Painter<'_>) {
    for (y, (keys, effect)) in KEYS.iter().enumerate() {
        painter.text((0, HEAD + y), keys, 20, BOLD);
        let room = painter.width().saturating_sub(20);
        painter.text((20, HEAD + y), effect, room, Style::new());
    }
}

/// Draws the rows at these places.
fn list(painter: &mut Painter<'_>, screen: &Screen, context: &RowContext<'_>, rows: &[u32]) {
    let lists = &context.state.lists;
    match screen.page {
        TopPage::Cluster => {}
        TopPage::Agents => table(
            painter,
            screen,
            context,
            found(rows, |at| lists.agents.at(at)),
        ),
        TopPage::Tasks => table(
            painter,
            screen,
            context,
            found(rows, |at| lists.tasks.at(at)),
        ),
        TopPage::Frameworks => {
            let found = found(rows, |at| lists.frameworks.at(at));
            table(painter, screen, context, found);
        }
        TopPage::Roles => {
            let found = found(rows, |at| screen.role_rows.get(at as usize));
            table(painter, screen, context, found);
        }
    }
}

/// Returns the rows at these places.
fn found<'a, R>(rows: &[u32], at: impl Fn(u32) -> Option<&'a R>) -> Vec<&'a R> {
    rows.iter().filter_map(|place| at(*place)).collect()
}

fn table<R: ListedRow>(
    painter: &mut Painter<'_>,
    screen: &Screen,
    context: &RowContext<'_>,
    rows: Vec<&R>,
) {
    let headings = headings(screen, R::COLUMNS);
    let formatted = rows.iter().map(|row| {
        let cells = (0..R::COLUMNS.len()).map(|column| row.cell(column, context));
        cells.map(cell_text).collect()
    });
    let formatted: Vec<Vec<String>> = formatted.collect();
    if formatted.is_empty() {
        let text = match (context.state.loaded(), screen.filter.is_empty()) {
            (Some(_), _) => "waiting for the cluster's records",
            (None, true) => "none",
            (None, false) => "nothing matches the filter; Esc clears it",
        };
        painter.line(HEAD + 1, text, Style::new());
    }
    for (x, y, room, text, style) in laid_out(painter, R::COLUMNS, &headings, &formatted) {
        painter.text((x, HEAD + y), &text, room, style);
    }
}

/// Returns the text of a cell, `-` where there is nothing.
pub(super) fn cell_text(text: String) -> String {
    match text.is_empty() {
        true => "-".to_owned(),
        false => visible_line(&text),
    }
}

/// Returns the headings, with a mark at the column by which the rows are sorted.
fn headings(screen: &Screen, columns: &[ColumnSpec]) -> Vec<String> {
    let sorted = screen
        .listing()
        .map(|(list, _)| (list.sort, list.descending));
    let headings = columns.iter().enumerate().map(|(at, column)| {
        let mark = match sorted {
            Some((column, true)) if column == at => "▼",
            Some((column, false)) if column == at => "▲",
            Some(_) | None => "",
        };
        format!("{}{mark}", column.heading)
    });
    headings.collect()
}

/// A text with its column, line, width and style.
pub(super) type PlacedText = (usize, usize, usize, String, Style);

/// Returns headings and rows in columns that fit.
pub(super) fn laid_out(
    painter: &Painter<'_>,
    columns: &[ColumnSpec],
    headings: &[String],
    rows: &[Vec<String>],
) -> Vec<PlacedText> {
    let wanted: Vec<usize> = (0..columns.len())
        .map(|column| {
            let cells = rows.iter().map(|cells| width(&cells[column]));
            cells.chain([width(&headings[column])]).max().unwrap_or(0)
        })
        .collect();
    let mut all = Vec::new();
    for place in places(columns, &wanted, painter.width()) {
        let heading = headings[place.column].clone();
        all.push((place.begin, 0, place.width, heading, BOLD));
        let is_state = columns[place.column].heading == "STATE";
        for (y, cells) in rows.iter().enumerate() {
            let text = cells[place.column].clone();
            let style = match is_state {
                true => painter.state_style(&text),
                false => Style::new(),
            };
            all.push((place.begin, y + 1, place.width, text, style));
        }
    }
    all
}

fn footer(painter: &mut Painter<'_>, screen: &Screen, shown: &Shown<'_>) {
    let y = painter.height().saturating_sub(1);
    if y < HEAD {
        return;
    }
    if screen.is_editing {
        let text = format!("filter: {}_  Enter keeps it, Esc clears it", screen.filter);
        painter.line(y, &text, BOLD);
        return;
    }
    let mut parts = Vec::new();
    if let Some((list, columns)) = screen.listing() {
        let first = (list.offset + 1).min(list.order.len());
        let last = (list.offset + screen.height()).min(list.order.len());
        parts.push(format!("{first}-{last} of {}", list.order.len()));
        if !screen.filter.is_empty() {
            parts.push(format!("filter {:?}", screen.filter));
        }
        parts.push(format!("by {}", columns[list.sort].heading));
    }
    if shown.state.lists.is_cut() {
        parts.push("too many records: some are left out".to_owned());
    }
    parts.push("? keys, q leaves".to_owned());
    painter.line(y, &parts.join("  "), Style::new());
}

#[cfg(test)]
mod tests;
