//! Users and groups by name, from the accounts in a container's root, mostly an image.
//!
//! Its `/etc/passwd` and `/etc/group` are read below its root, as untrusted text.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::spec::profile::CONTAINER_IDS;
use crate::spec::{ContainerUser, UserSpec};

/// The maximum number of bytes that are read of each file.
const FILE_LIMIT_BYTES: u64 = 1 << 20;
/// The maximum number of supplementary groups of a user.
const GROUPS_MAX: usize = 1024;

/// Resolves the user in the root `root`, with all groups.
pub(crate) fn user(root: BorrowedFd<'_>, spec: &UserSpec<'_>) -> Result<ContainerUser, String> {
    find(&read(root, "etc/passwd")?, &read(root, "etc/group")?, spec)
}

/// Returns the home of that user in the root `root`, for the variable HOME; `/` if there is no
/// entry.
pub(crate) fn home(root: BorrowedFd<'_>, spec: &UserSpec<'_>) -> Result<String, String> {
    Ok(home_of(&read(root, "etc/passwd")?, spec))
}

pub(crate) fn home_of(passwd: &str, spec: &UserSpec<'_>) -> String {
    let account = account(passwd, spec);
    let home = account.map_or("", |account| account.home);
    let is_usable = home.starts_with('/') && !home.contains('\0');
    if is_usable { home } else { "/" }.to_owned()
}

fn account<'a>(passwd: &'a str, spec: &UserSpec<'_>) -> Option<PasswdEntry<'a>> {
    let mut accounts = passwd.lines().filter_map(PasswdEntry::parse);
    match spec.user.parse::<u32>().ok() {
        Some(uid) => accounts.find(|account| account.uid == uid),
        None => accounts.find(|account| account.name == spec.user),
    }
}

pub(crate) fn find(
    passwd: &str,
    group: &str,
    spec: &UserSpec<'_>,
) -> Result<ContainerUser, String> {
    let number = spec.user.parse::<u32>().ok();
    let account = account(passwd, spec);
    let uid = match (&account, number) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(unknown("user", spec.user, "/etc/passwd")),
    };
    let mut groups = group.lines().filter_map(GroupEntry::parse);
    let (gid, further) = match spec.group {
        Some(name) => {
            let number = name.parse().ok();
            let named = || {
                groups
                    .find(|group| group.name == name)
                    .map(|group| group.gid)
            };
            let gid = number
                .or_else(named)
                .ok_or_else(|| unknown("group", name, "/etc/group"))?;
            (gid, Vec::new())
        }
        None => {
            let name = account.as_ref().map(|account| account.name);
            let of_account = groups.filter(|group| name.is_some_and(|name| group.has(name)));
            let further = of_account.map(|group| group.gid).take(GROUPS_MAX).collect();
            (account.as_ref().map_or(0, |account| account.gid), further)
        }
    };
    let all = [uid, gid].into_iter().chain(further.iter().copied());
    if let Some(number) = all.into_iter().find(|number| *number >= CONTAINER_IDS) {
        return Err(format!(
            "cannot run as {}: a container has the users and groups 0 to 65,535, not {number}",
            spec.user
        ));
    }
    Ok(ContainerUser {
        uid,
        gid,
        groups: further,
    })
}

fn unknown(what: &str, name: &str, file: &str) -> String {
    format!(
        "the container has no {what} {name:?} in {file}; name one that it has, or give a number"
    )
}

/// A line of `/etc/passwd`. An invalid line is skipped.
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    /// Empty if the line has no home.
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }
}

/// A line of `/etc/group`.
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        Some(Self { name, gid, members })
    }

    fn has(&self, name: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == name)
    }
}

/// Reads a file below the root; links cannot lead outside. A missing file reads as empty.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String, String> {
    let words = |error: std::io::Error| format!("cannot read /{path} of the container: {error}");
    // A pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, path, flags, Mode::empty(), within) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(words(errno.into())),
    };
    let found = fstat(&file).map_err(|errno| words(errno.into()))?;
    if !FileType::from_raw_mode(found.st_mode).is_file() {
        return Err(words(std::io::Error::other("it is no file")));
    }
    let mut bytes = Vec::new();
    let mut start = File::from(file).take(FILE_LIMIT_BYTES + 1);
    start.read_to_end(&mut bytes).map_err(words)?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(words(std::io::Error::other("it is larger than 1 MiB")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nweb:x:1000:1001:::\nhuge:x:70000:1::\n12:x:5:5::\n";
    const GROUP: &str =
        "root:x:0:\nweb:x:1001:\ndocs:x:1002:other, web\nbroken:x:y:web\nlogs:x:1003:web,other\n";

    fn resolve(wanted: &str) -> Result<(u32, u32, Vec<u32>), String> {
        let wanted = UserSpec::parse(wanted).ok_or("meaningless")?;
        find(PASSWD, GROUP, &wanted).map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn names_and_numbers_are_found_with_their_groups() {
        assert_eq!(resolve("web"), Ok((1000, 1001, vec![1002, 1003])));
        assert_eq!(resolve("1000"), Ok((1000, 1001, vec![1002, 1003])));
        assert_eq!(resolve("web:docs"), Ok((1000, 1002, vec![])));
        assert_eq!(resolve("web:7"), Ok((1000, 7, vec![])));
        assert_eq!(resolve(""), Ok((0, 0, vec![])));
        assert_eq!(
            resolve("7777"),
            Ok((7777, 0, vec![])),
            "a number needs no account"
        );
        assert_eq!(
            resolve("12"),
            Ok((12, 0, vec![])),
            "a number is never a name"
        );
    }

    #[test]
    fn the_home_directory_is_that_of_the_account_or_the_root_directory() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/srv/www\nodd:x:2:2::home:\n";
        let home = |wanted: &str| home_of(passwd, &UserSpec::parse(wanted).unwrap());
        assert_eq!(
            ["", "web", "1000"].map(home),
            ["/root", "/srv/www", "/srv/www"]
        );
        assert_eq!(["odd", "7", "nobody"].map(home), ["/", "/", "/"]);
    }

    #[test]
    fn unknown_users_and_groups_are_rejected_by_name() {
        let refusal = resolve("nobody").unwrap_err();
        assert!(
            refusal.contains("no user \"nobody\" in /etc/passwd"),
            "{refusal}"
        );
        let refusal = resolve("web:nogroup").unwrap_err();
        assert!(
            refusal.contains("no group \"nogroup\" in /etc/group"),
            "{refusal}"
        );
        assert!(resolve("huge").unwrap_err().contains("not 70000"));
        assert!(resolve("0:65536").unwrap_err().contains("not 65536"));
        for meaningless in ["a:", "a:b:c", "a\nb", "a\0b"] {
            assert_eq!(
                resolve(meaningless),
                Err("meaningless".to_owned()),
                "{meaningless:?}"
            );
        }
    }

    #[test]
    fn links_in_the_image_do_not_lead_outside_the_root() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        let directory = File::open(root.path()).unwrap();
        let web = UserSpec::parse("web").unwrap();
        assert!(
            user(directory.as_fd(), &web)
                .unwrap_err()
                .contains("no user"),
            "no files at all"
        );
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(root.path().join("accounts"), PASSWD).unwrap();
        std::os::unix::fs::symlink("/../../accounts", etc.join("passwd")).unwrap();
        assert_eq!(
            user(directory.as_fd(), &web).unwrap().uid,
            1000,
            "the root is the link's root"
        );
        std::os::unix::fs::symlink("/proc/self/status", etc.join("group")).unwrap();
        assert!(user(directory.as_fd(), &web).unwrap().groups.is_empty());
        std::fs::remove_file(etc.join("group")).unwrap();
        std::fs::create_dir(etc.join("group")).unwrap();
        assert!(
            user(directory.as_fd(), &web)
                .unwrap_err()
                .contains("it is no file")
        );
    }
}
