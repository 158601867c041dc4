//! Users in rules. Root has several spellings, and a denied user is denied with each of its groups.
//!
//! The accounts of hosts and images are not known here, so a name is never compared with a number
//! other than 0.

/// Stands for every user but root, as the object of the right to run as one of them.
pub(super) const ANY_USER: &str = "*";

/// A user of a task without its group, as the container runtime reads it.
#[derive(Debug, PartialEq, Eq)]
enum User<'a> {
    Root,
    Number(u32),
    Name(&'a str),
}

impl<'a> User<'a> {
    /// Reads `USER` or `USER:GROUP`. A group without a user is one of root.
    fn read(text: &'a str) -> Self {
        let name = text.split(':').next().unwrap_or_default();
        match name.parse::<u32>() {
            Ok(0) => Self::Root,
            Ok(number) => Self::Number(number),
            Err(_) if matches!(name, "" | "root") => Self::Root,
            Err(_) => Self::Name(name),
        }
    }
}

/// Returns whether a user is root, by name or by number, with or without a group.
pub(super) fn is_root(user: &str) -> bool {
    User::read(user) == User::Root
}

/// Returns whether a rule that allows a user covers another one: the same user and the same group.
pub(super) fn covers(allowed: &str, user: &str) -> bool {
    is_same(allowed, user) && group(allowed) == group(user)
}

/// Returns whether two texts name one user, whatever the groups.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    User::read(one) == User::read(other)
}

fn group(text: &str) -> Option<&str> {
    text.split_once(':').map(|(_, group)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_several_spellings() {
        for root in "root 0 00 +0 root:root 0:0 0:web :0 :1000".split(' ') {
            assert!(is_root(root), "{root}");
            assert!(is_same("root", root) && is_same("0", root), "{root}");
        }
        for other in ["rooty", "Root", "1", "1000:0", "web:root", "4294967296"] {
            assert!(!is_root(other), "{other}");
            assert!(!is_same("root", other) && !is_same(":0", other), "{other}");
        }
    }

    #[test]
    fn a_user_is_compared_without_its_group_and_a_number_by_its_value() {
        for (one, other) in [
            ("web", "web:web"),
            ("web:web", "web:db"),
            ("1000", "01000"),
            ("1000", "+1000:0"),
        ] {
            assert!(is_same(one, other) && is_same(other, one), "{one} {other}");
        }
        for (one, other) in [("web", "web2"), ("web", "1000"), ("1000", "100")] {
            assert!(!is_same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn an_allowed_user_has_only_the_group_of_the_rule() {
        for (allowed, user) in [("web", "web"), ("web:db", "web:db"), ("1000", "01000")] {
            assert!(covers(allowed, user), "{allowed} {user}");
        }
        for (allowed, user) in [("web", "web:root"), ("web:db", "web"), ("web", "db")] {
            assert!(!covers(allowed, user), "{allowed} {user}");
        }
    }
}
