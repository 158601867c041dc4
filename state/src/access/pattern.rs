//! Patterns: the objects to which a rule applies.

use std::fmt;
use std::str::FromStr;

use crate::ids::{AgentId, FrameworkId, InvalidId, Role};
use crate::limits;
use crate::secret::SecretName;

/// The objects to which a rule applies. A pattern other than [`Pattern::Any`] names one property of
/// an object, and does not match an object without that property.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Every object, and actions without an object: `*`.
    Any,
    /// One role: `role:eng`.
    Role(Role),
    /// A role and the roles below it: `role:eng/%`.
    Subtree(Role),
    /// One framework: `framework:framework-7`.
    Framework(FrameworkId),
    /// A user of the host: `user:www-data`.
    User(String),
    /// One agent: `agent:agent-3`.
    Agent(AgentId),
    /// One secret: `secret:eng/db-password`.
    Secret(SecretName),
    /// The secrets of a role and of the roles below it: `secret:eng/%`.
    SecretSubtree(Role),
    /// The images whose name begins with a text: `image:registry.example/eng/`.
    Image(String),
    /// A path of the host and all paths below it: `host-path:/data`. The path is absolute, and has
    /// no empty, `.` or `..` component, and no slash at its end (except `/` itself).
    HostPath(String),
}

impl Pattern {
    /// Returns whether the pattern matches this role.
    #[must_use]
    pub fn matches_role(&self, role: &Role) -> bool {
        match self {
            Self::Any => true,
            Self::Role(one) => one == role,
            Self::Subtree(top) => top.contains(role),
            _ => false,
        }
    }

    /// Returns whether the pattern matches this secret.
    #[must_use]
    pub fn matches_secret(&self, secret: &SecretName) -> bool {
        match self {
            Self::Any => true,
            Self::Secret(one) => one == secret,
            Self::SecretSubtree(top) => top.contains(&secret.role()),
            _ => false,
        }
    }

    /// Returns whether the pattern matches this path of the host.
    #[must_use]
    pub fn matches_host_path(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::HostPath(top) if top == "/" => true,
            Self::HostPath(top) => path
                .strip_prefix(top.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            _ => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => out.write_str("*"),
            Self::Role(role) => write!(out, "role:{role}"),
            Self::Subtree(role) => write!(out, "role:{role}/%"),
            Self::Framework(id) => write!(out, "framework:{id}"),
            Self::User(name) => write!(out, "user:{name}"),
            Self::Agent(id) => write!(out, "agent:{id}"),
            Self::Secret(name) => write!(out, "secret:{name}"),
            Self::SecretSubtree(role) => write!(out, "secret:{role}/%"),
            Self::Image(prefix) => write!(out, "image:{prefix}"),
            Self::HostPath(prefix) => write!(out, "host-path:{prefix}"),
        }
    }
}

impl FromStr for Pattern {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let wrong = |rule| InvalidId::new("object", text, rule);
        let Some((kind, value)) = text.split_once(':') else {
            return Err(wrong("write * or KIND:VALUE, such as role:eng/%"));
        };
        match kind {
            "role" if value == "%" => Err(wrong("write * for every object")),
            "role" => match value.strip_suffix("/%") {
                Some("*") => Err(wrong("no role is below *: write * for every object")),
                Some(top) => Ok(Self::Subtree(Role::new(top)?)),
                None => Ok(Self::Role(Role::new(value)?)),
            },
            "framework" => Ok(Self::Framework(value.parse()?)),
            "user" if is_word(value, limits::NAME_BYTES) => Ok(Self::User(value.to_owned())),
            "user" => Err(wrong("a user takes 1 to 255 bytes without white space")),
            "agent" => Ok(Self::Agent(value.parse()?)),
            "secret" => match value.strip_suffix("/%") {
                Some(top) => Ok(Self::SecretSubtree(Role::new(top)?)),
                None => Ok(Self::Secret(SecretName::new(value)?)),
            },
            "image" if is_word(value, limits::IMAGE_BYTES) => Ok(Self::Image(value.to_owned())),
            "image" => Err(wrong("a prefix takes 1 to 1024 bytes without white space")),
            "host-path" if is_path(value) => Ok(Self::HostPath(value.to_owned())),
            "host-path" => Err(wrong(
                "use an absolute path of at most 1024 bytes without white space, ., .., // or a slash at its end",
            )),
            _ => Err(wrong(
                "its kind is role, framework, user, agent, secret, image or host-path",
            )),
        }
    }
}

fn is_word(text: &str, most: usize) -> bool {
    let is_foreign = |c: char| c.is_whitespace() || c.is_control();
    (1..=most).contains(&text.len()) && !text.contains(is_foreign)
}

fn is_path(text: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    let parts = text.strip_prefix('/');
    is_word(text, limits::VOLUME_PATH_BYTES)
        && parts.is_some_and(|parts| parts.is_empty() || parts.split('/').all(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_round_trip_as_text_and_other_texts_are_rejected() {
        for text in [
            "*",
            "role:*",
            "role:eng",
            "role:eng/web",
            "role:eng/%",
            "role:eng/web/%",
            "framework:framework-7",
            "user:www-data",
            "agent:agent-3",
            "secret:eng/db.password",
            "secret:eng/db/password",
            "secret:eng/%",
            "secret:*/%",
            "image:registry.example/eng/",
            "image:docker://alpine:3",
            "host-path:/",
            "host-path:/data/shared",
        ] {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
        }
        let long = format!("user:{}", "u".repeat(256));
        for text in [
            "",
            "**",
            "role",
            "role:",
            "role:%",
            "role:*/%",
            "role:eng//%",
            "role:a b",
            "Role:eng",
            "framework:7",
            "user:",
            "user:a b",
            &long,
            "agent:agent-",
            "secret:eng",
            "secret:/x",
            "secret:eng/",
            "secret:eng/a b",
            "secret:eng/.key",
            "image:",
            "image:a\u{a0}b",
            "host-path:data",
            "host-path:/data/",
            "host-path:/data/../etc",
            "host-path://",
            "host-path:/a/./b",
            "task:x",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_wrong_value_gets_the_error_of_its_kind() {
        let user = format!("user:{}", "u".repeat(256));
        let image = format!("image:{}", "i".repeat(1025));
        let path = format!("host-path:/{}", "x".repeat(1024));
        for (text, what, rule) in [
            (
                "role",
                "object",
                "write * or KIND:VALUE, such as role:eng/%",
            ),
            ("role:%", "object", "write * for every object"),
            (
                "role:*/%",
                "object",
                "no role is below *: write * for every object",
            ),
            ("role:", "role", "use * or a path as eng/backend"),
            ("framework:7", "framework id", "write it as framework-N"),
            (
                "user:",
                "object",
                "a user takes 1 to 255 bytes without white space",
            ),
            (
                &user,
                "object",
                "a user takes 1 to 255 bytes without white space",
            ),
            ("agent:7", "agent id", "write it as agent-N"),
            ("secret:eng", "secret", "write it as ROLE/NAME"),
            ("secret:a b/%", "role", "use * or a path as eng/backend"),
            (
                "image:",
                "object",
                "a prefix takes 1 to 1024 bytes without white space",
            ),
            (
                &image,
                "object",
                "a prefix takes 1 to 1024 bytes without white space",
            ),
            (
                "host-path:data",
                "object",
                "use an absolute path of at most 1024 bytes",
            ),
            (
                &path,
                "object",
                "use an absolute path of at most 1024 bytes",
            ),
            (
                "task:x",
                "object",
                "its kind is role, framework, user, agent, secret, image or host-path",
            ),
        ] {
            let wrong = text.parse::<Pattern>().unwrap_err();
            assert_eq!(wrong.what, what, "{text}");
            assert!(wrong.rule.starts_with(rule), "{text}: {}", wrong.rule);
        }
    }

    #[test]
    fn a_pattern_matches_only_its_own_property_and_whole_components() {
        let pattern = |text: &str| text.parse::<Pattern>().unwrap();
        let role = |text: &str| Role::new(text).unwrap();
        assert!(pattern("*").matches_role(&role("eng")));
        assert!(pattern("role:eng").matches_role(&role("eng")));
        assert!(!pattern("role:eng").matches_role(&role("eng/web")));
        assert!(pattern("role:eng/%").matches_role(&role("eng")));
        assert!(pattern("role:eng/%").matches_role(&role("eng/web")));
        assert!(!pattern("role:eng/%").matches_role(&role("english")));
        assert!(!pattern("user:eng").matches_role(&role("eng")));
        let secret = |text: &str| SecretName::new(text).unwrap();
        assert!(pattern("secret:eng/key").matches_secret(&secret("eng/key")));
        assert!(!pattern("secret:eng/key").matches_secret(&secret("eng/web/key")));
        assert!(pattern("secret:eng/%").matches_secret(&secret("eng/web/key")));
        assert!(!pattern("secret:eng/%").matches_secret(&secret("ops/key")));
        assert!(!pattern("role:eng").matches_secret(&secret("eng/key")));
        assert!(pattern("host-path:/data").matches_host_path("/data/a"));
        assert!(pattern("host-path:/data").matches_host_path("/data"));
        assert!(!pattern("host-path:/data").matches_host_path("/database"));
        assert!(pattern("host-path:/").matches_host_path("/etc"));
    }
}
