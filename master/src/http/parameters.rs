//! Strict parsing of query parameters and path segments.

use std::collections::BTreeMap;

use argosy_proto::v1;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;
use tonic::Status;

use super::problem;
use crate::service::filter_values;

/// The parameters after the `?`, each at most once.
#[derive(Debug, Default)]
pub(super) struct QueryParameters(pub(super) BTreeMap<String, String>);

impl QueryParameters {
    pub(super) fn read(parts: &Parts) -> Result<Self, Status> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Query(pairs) = pairs.map_err(|why| Status::invalid_argument(why.body_text()))?;
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if let Some(other) = parameters.get(&name) {
                return Err(Status::invalid_argument(format!(
                    "{name}: it is there twice, as {other:?} and {value:?}"
                )));
            }
            parameters.insert(name, value);
        }
        Ok(Self(parameters))
    }

    /// Returns the requested consistency; linearizable by default.
    pub(super) fn consistency(&self) -> Result<i32, Status> {
        let wanted = self.0.get("consistency");
        let wanted = wanted.map_or(Ok(v1::Consistency::Linearizable), |value| {
            filter_values::consistency(value)
        });
        Ok(wanted?.into())
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        let number = |value: &String| {
            let wrong = || Status::invalid_argument(format!("{name}: {value:?} is not a number"));
            value.parse().map_err(|_| wrong())
        };
        self.0.get(name).map(number).transpose()
    }

    /// Rejects all other parameters.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Status> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Status::invalid_argument(format!(
                "no parameter {name:?}: {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParameters {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        Self::read(parts).map_err(|status| problem(&status))
    }
}

/// The variable segments of the path.
pub(crate) struct PathSegments<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathSegments<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            Err(why) => Err(problem(&Status::invalid_argument(why.body_text()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<QueryParameters, Status> {
        let request = axum::http::Request::get(format!("/v1/tasks?{query}"));
        QueryParameters::read(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn unknown_repeated_and_invalid_parameters_are_rejected() {
        let parameters = read("page_size=7&consistency=LOCAL").unwrap();
        assert_eq!(parameters.number::<u32>("page_size").unwrap(), Some(7));
        let local: i32 = v1::Consistency::Local.into();
        assert_eq!(parameters.consistency().unwrap(), local);
        for (query, expected) in [
            ("page_size=1&page_size=2", "twice"),
            ("consistency=bogus", "linearizable, local"),
            ("page_size=many", "page_size"),
            ("other=1", "\"other\""),
        ] {
            let parsed = read(query).and_then(|parameters| {
                parameters.only(&["consistency", "page_size"])?;
                parameters.consistency()?;
                parameters.number::<u32>("page_size")
            });
            let refused = parsed.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(expected), "{refused}");
        }
    }
}
