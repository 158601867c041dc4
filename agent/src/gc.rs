//! Removes sandboxes of ended tasks and the folders of their groups, after an hour, beyond the newest thousand and one by
//! one while the disk is too full; the hand-off folders of containers that are gone; and images that nobody holds while
//! the disk is too full.
//!
//! Follows no link and crosses no mount. Folders go in rounds, away from launches: some file systems make
//! new files slowly next to ones just deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_isolation::crash;
use argosy_isolation::disposal::remove_folder;

use crate::core::ContainerName;
use crate::disk::release;
use crate::images::{Images, space};
use crate::inbox::Asker;
use crate::paths::Paths;

/// How long a sandbox is kept after its task ended.
const KEEP: Duration = Duration::from_secs(3_600);
/// How many sandboxes of ended tasks are kept at most.
const KEEP_NEWEST: usize = 1_000;
/// How often sandboxes are looked through.
const EVERY: Duration = Duration::from_secs(30);

/// Whether there is as much room on the disk as is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Enough,
    Short,
}

/// What is known of ended sandboxes. Their ages begin anew with each start of the agent.
#[derive(Debug, Default)]
struct Keeper {
    ended: BTreeMap<PathBuf, Instant>,
}

impl Keeper {
    /// Which of `present` are to go now. `live` are those of tasks that have not ended, and of groups of such: these keep the
    /// sandbox of their first task, too, as a part of whose disk their folder counts. For want of room the oldest goes,
    /// but none that has ended since the last time: somebody may still be reading what it said.
    fn judge(
        &mut self,
        now: Instant,
        room: Room,
        present: Vec<(ContainerName, PathBuf)>,
        live: &BTreeSet<ContainerName>,
    ) -> Vec<PathBuf> {
        let is_live = |name: &ContainerName| {
            // Of a group that it is the first of.
            let group = ContainerName { life: 0, ..*name };
            live.contains(name) || live.contains(&group)
        };
        let past: Vec<_> = present
            .into_iter()
            .filter(|(name, _)| !is_live(name))
            .collect();
        let former = std::mem::take(&mut self.ended);
        let mut aged: Vec<_> = past
            .into_iter()
            .map(|(name, path)| (former.get(&path).copied().unwrap_or(now), name, path))
            .collect();
        aged.sort_by(|a, b| b.cmp(a));
        let oldest = match room {
            Room::Enough => None,
            Room::Short => aged.last().filter(|(since, ..)| *since < now).cloned(),
        };
        let mut leaving = Vec::new();
        for (at, (since, _, path)) in aged.into_iter().enumerate() {
            let is_oldest = oldest
                .as_ref()
                .is_some_and(|(_, _, oldest)| *oldest == path);
            if at >= KEEP_NEWEST || now.duration_since(since) >= KEEP || is_oldest {
                leaving.push(path.clone());
            }
            self.ended.insert(path, since);
        }
        leaving
    }
}

/// Runs until the agent stops. Sandboxes go for want of room when less than `headroom_percent` of the disk is free.
pub(crate) async fn run(paths: Paths, asker: Asker, headroom_percent: u64) {
    let emptied = paths.clone();
    let cleared = tokio::task::spawn_blocking(move || {
        clear_emptied(&emptied.sandboxes());
        clear_emptied(&emptied.groups());
    });
    cleared.await.expect("removing never panics");
    let mut keeper = Keeper::default();
    let mut turn = tokio::time::interval(EVERY);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        // Listed before it is asked who lives: what is made in between is not listed.
        let listed = paths.clone();
        let list = move || {
            let room = room(&listed.sandboxes(), headroom_percent);
            let mut present = below(&listed.sandboxes());
            // A group's folder goes as the sandbox of its last task does.
            present.extend(below(&listed.groups()));
            (present, named(&listed.containers()), room)
        };
        let listing = tokio::task::spawn_blocking(list).await;
        let (present, folders, room) = listing.expect("listing never panics");
        let Some(containers) = asker.containers().await else {
            return;
        };
        let known: BTreeSet<_> = containers.iter().map(|view| view.name).collect();
        let live = containers.iter().filter(|view| view.state != "ended");
        let live = live.flat_map(|view| [Some(view.name), view.group]);
        let live = live.flatten().collect();
        let leaving = keeper.judge(Instant::now(), room, present, &live);
        let removed_from = paths.clone();
        let removing = move || {
            leaving.iter().for_each(|path| remove(&removed_from, path));
            for (_, path) in folders.iter().filter(|(name, _)| !known.contains(name)) {
                // Tried again in the next round.
                let _ = remove_folder(path);
                crash::passed("gc.folder-removed");
            }
        };
        let removed = tokio::task::spawn_blocking(removing).await;
        removed.expect("removing never panics");
    }
}

/// Without an answer nothing is removed for want of room.
fn room(folder: &Path, headroom_percent: u64) -> Room {
    match space(folder) {
        Ok((free, total)) => judge_room(free, total, headroom_percent),
        Err(error) => {
            tracing::warn!(path = %folder.display(), why = %error, "how full the disk is cannot be told");
            Room::Enough
        }
    }
}

/// `free` and `total` in bytes.
fn judge_room(free: u64, total: u64, headroom_percent: u64) -> Room {
    let wanted = u128::from(total) * u128::from(headroom_percent.min(100));
    if u128::from(free) * 100 < wanted {
        Room::Short
    } else {
        Room::Enough
    }
}

/// Tidies images until the agent stops.
pub(crate) async fn run_images(images: Arc<Images>, asker: Asker) {
    let mut turn = tokio::time::interval(EVERY);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        let living = async {
            let containers = asker.containers().await?;
            Some(containers.iter().map(|view| view.name).collect())
        };
        match images.tidy(living).await {
            Ok(Some((0, 0))) => {}
            Ok(Some((images, layers))) => {
                tracing::info!(images, layers, "images were removed to make room");
            }
            Ok(None) => return,
            Err(error) => {
                let why = crate::error::sentence(&error);
                tracing::warn!(why, "images cannot be tidied; trying again later");
            }
        }
    }
}

/// All sandboxes, or folders of groups: three levels of plain folders.
pub(crate) fn below(path: &Path) -> Vec<(ContainerName, PathBuf)> {
    let frameworks = folders(path);
    let tasks = frameworks.iter().flat_map(|framework| folders(framework));
    tasks.flat_map(|task| named(&task)).collect()
}

/// Folders of tasks and of frameworks from which a life of the agent that was cut off had removed the last sandbox.
fn clear_emptied(path: &Path) {
    for framework in folders(path) {
        for task in folders(&framework) {
            // Whatever is in it keeps it, and its framework's.
            let _ = fs::remove_dir(task);
        }
        let _ = fs::remove_dir(framework);
    }
}

/// The folders in here that have a container's name.
fn named(path: &Path) -> Vec<(ContainerName, PathBuf)> {
    let all = folders(path).into_iter();
    all.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
        .collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        // Of the entry itself: a link is no folder.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove(paths: &Paths, path: &Path) {
    if let Err(error) = release(paths, path) {
        let why = crate::error::sentence(&error);
        tracing::warn!(path = %path.display(), why, "what bounds a sandbox's disk cannot be removed");
        return;
    }
    crash::passed("gc.disk-released");
    if has_mounts(path) {
        tracing::warn!(path = %path.display(), "a sandbox holds a mount and is not removed");
        return;
    }
    // Beside it: which of its files hold which bytes of the output. Seldom there.
    for beside in ["output", "output.draft"] {
        match fs::remove_file(path.with_extension(beside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), why = %error, "a sandbox's record cannot be removed");
                return;
            }
            Ok(()) | Err(_) => {}
        }
    }
    crash::passed("gc.record-removed");
    if let Err(error) = remove_folder(path) {
        tracing::warn!(path = %path.display(), why = %error, "a sandbox cannot be removed");
        return;
    }
    crash::passed("gc.sandbox-removed");
    // The task's folder, and its framework's, go with their last sandbox; while others are there it fails.
    for parent in path.ancestors().skip(1).take(2) {
        if fs::remove_dir(parent).is_err() {
            break;
        }
        crash::passed("gc.parent-removed");
    }
}

fn has_mounts(path: &Path) -> bool {
    // Without the list nothing is certain, so nothing is removed.
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return true;
    };
    mounts_below(&mounts, path)
}

fn mounts_below(mountinfo: &str, path: &Path) -> bool {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(unescape)
        .any(|point| Path::new(&point).starts_with(path))
}

/// Spaces and the like are written as octal numbers there.
fn unescape(text: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests {
    use argosy_isolation::disk::FileSystem;
    use argosy_state::ids::{AgentId, FrameworkId, GroupId, OrderIndex};

    use super::*;
    use crate::core::Instance;

    fn name(order: u64) -> ContainerName {
        let instance = Instance {
            agent: AgentId(1),
            order: OrderIndex(order),
        };
        ContainerName { instance, life: 1 }
    }

    fn present(count: u64) -> Vec<(ContainerName, PathBuf)> {
        (1..=count)
            .map(|order| (name(order), PathBuf::from(format!("/s/{order}"))))
            .collect()
    }

    #[test]
    fn an_ended_sandbox_stays_an_hour_and_a_living_one_for_ever() {
        let mut keeper = Keeper::default();
        let start = Instant::now();
        let live = BTreeSet::from([name(2)]);
        let mut judge = |at, room| keeper.judge(at, room, present(2), &live);
        assert!(judge(start, Room::Enough).is_empty());
        assert!(judge(start + KEEP / 2, Room::Enough).is_empty());
        let leaving = judge(start + KEEP, Room::Enough);
        assert_eq!(leaving, [PathBuf::from("/s/1")]);
    }

    #[test]
    fn the_first_sandbox_of_a_group_stays_as_long_as_the_group_lives() {
        let mut keeper = Keeper::default();
        let start = Instant::now();
        let group = ContainerName { life: 0, ..name(2) };
        let mut judge = |at, live: &[ContainerName]| {
            let live = live.iter().copied().collect();
            keeper.judge(at, Room::Enough, present(2), &live)
        };
        assert!(judge(start, &[group]).is_empty());
        assert_eq!(judge(start + KEEP, &[group]), [PathBuf::from("/s/1")]);
        // Its hour begins when the last of them has ended.
        assert!(judge(start + KEEP, &[]).contains(&PathBuf::from("/s/1")));
        let leaving = judge(start + KEEP * 2, &[]);
        assert!(leaving.contains(&PathBuf::from("/s/2")), "{leaving:?}");
    }

    #[test]
    fn beyond_a_thousand_the_oldest_go_at_once() {
        let mut keeper = Keeper::default();
        let (now, none) = (Instant::now(), BTreeSet::new());
        let mut leaving = keeper.judge(now, Room::Enough, present(1_002), &none);
        leaving.sort();
        assert_eq!(leaving, [PathBuf::from("/s/1"), PathBuf::from("/s/2")]);
    }

    #[test]
    fn on_a_full_disk_the_oldest_go_one_a_round_and_none_that_has_just_ended() {
        let mut keeper = Keeper::default();
        let (start, live) = (Instant::now(), BTreeSet::from([name(1)]));
        let mut round = |number: u32, room, there: &[u64]| {
            let there = there
                .iter()
                .map(|order| (name(*order), PathBuf::from(format!("/s/{order}"))));
            keeper.judge(start + EVERY * number, room, there.collect(), &live)
        };
        assert!(round(0, Room::Short, &[1, 2, 3]).is_empty());
        assert!(round(1, Room::Enough, &[1, 2, 3, 4]).is_empty());
        assert_eq!(
            round(2, Room::Short, &[1, 2, 3, 4]),
            [PathBuf::from("/s/2")]
        );
        assert_eq!(round(3, Room::Short, &[1, 3, 4]), [PathBuf::from("/s/3")]);
        assert_eq!(round(4, Room::Short, &[1, 4]), [PathBuf::from("/s/4")]);
        assert!(round(5, Room::Short, &[1]).is_empty(), "it lives");
    }

    #[test]
    fn a_disk_is_full_below_its_headroom() {
        assert_eq!(judge_room(100, 1_000, 10), Room::Enough);
        assert_eq!(judge_room(99, 1_000, 10), Room::Short);
        assert_eq!(judge_room(0, 1_000, 0), Room::Enough);
        assert_eq!(judge_room(u64::MAX, u64::MAX, 1_000), Room::Enough);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(room(folder.path(), 0), Room::Enough);
        assert_eq!(room(folder.path(), 100), Room::Short, "something is on it");
        assert_eq!(room(&folder.path().join("gone"), 100), Room::Enough);
    }

    #[test]
    fn the_folder_of_a_group_is_found_as_a_sandbox_is() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        let (framework, id) = (FrameworkId(1), GroupId::new("pod").unwrap());
        let name: ContainerName = "1-5-0".parse().unwrap();
        let group = paths.group(framework, &id, name);
        fs::create_dir_all(&group).unwrap();
        assert_eq!(below(&paths.groups()), [(name, group.clone())]);
        remove(&paths, &group);
        assert!(!paths.groups().join("framework-1").exists());
    }

    #[test]
    fn what_a_removal_that_was_cut_off_leaves_goes_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let sandboxes = folder.path().join("sandboxes");
        let kept = sandboxes.join("framework-1/web/1-5-0");
        for made in [
            &kept,
            &sandboxes.join("framework-1/gone"),
            &sandboxes.join("framework-2/gone"),
        ] {
            fs::create_dir_all(made).unwrap();
        }
        clear_emptied(&sandboxes);
        let left = |path: &Path| folders(path).len();
        assert_eq!(
            (left(&sandboxes), left(&sandboxes.join("framework-1"))),
            (1, 1)
        );
        assert!(kept.exists());
    }

    #[test]
    fn a_sandbox_with_a_mount_in_it_is_seen() {
        let line = "36 35 98:0 /a /srv/my\\040box/in rw,noatime master:1 - ext4 /dev/root rw\n";
        assert!(mounts_below(line, Path::new("/srv/my box")));
        assert!(!mounts_below(line, Path::new("/srv/my")));
    }

    #[test]
    fn the_file_system_of_a_sandbox_goes_with_it() {
        if !nix::unistd::geteuid().is_root() {
            return println!("SKIPPED: needs root");
        }
        if let Err(why) = FileSystem::supported() {
            return println!("SKIPPED: this kernel has no loop devices: {why}");
        }
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        let sandbox = paths.sandboxes().join("framework-1/web/1-1-1");
        fs::create_dir_all(&sandbox).unwrap();
        let system = FileSystem::at(&paths.disk("1-1-1".parse().unwrap()));
        system.make(4 << 20, &sandbox).unwrap();
        fs::write(sandbox.join("file"), "x").unwrap();
        assert!(has_mounts(&sandbox));
        remove(&paths, &sandbox);
        assert!(!has_mounts(folder.path()));
        let left = fs::read_dir(paths.disks()).unwrap().count();
        assert!(left == 0 && !paths.sandboxes().join("framework-1").exists());
    }

    #[test]
    fn a_link_in_a_sandbox_goes_without_what_it_points_to() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        let sandbox = folder.path().join("framework-1/web/1-1-1");
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        fs::create_dir_all(&sandbox).unwrap();
        fs::write(folder.path().join("framework-1/web/1-1-1.output"), "").unwrap();
        std::os::unix::fs::symlink(&kept, sandbox.join("link")).unwrap();
        remove(&Paths::new(folder.path()), &sandbox);
        assert!(kept.join("file").exists());
        assert!(
            !folder.path().join("framework-1").exists(),
            "emptied folders go too"
        );
    }
}
