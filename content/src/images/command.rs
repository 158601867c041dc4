//! The command of a container: an image's configuration combined with a task's settings, by
//! Docker's rules. Pure.

use std::collections::BTreeMap;

use super::image::ImageConfig;

/// The settings of a task; empty means none.
#[derive(Debug, Clone, Copy)]
pub struct CommandOverrides<'a> {
    /// A line for `/bin/sh -c`; replaces entrypoint and cmd.
    pub shell: &'a str,
    /// Replaces cmd, and follows the entrypoint.
    pub argv: &'a [String],
    /// Overrides the image's variables, by name.
    pub environment: &'a BTreeMap<String, String>,
    /// Overrides the image's user.
    pub user: &'a str,
}

/// The combined command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCommand {
    /// Program and arguments; never empty. The program is looked up in the environment's `PATH`.
    pub argv: Vec<String>,
    /// All variables except those that the agent sets.
    pub environment: BTreeMap<String, String>,
    /// To be resolved in the image's accounts; `None` if neither names one.
    pub user: Option<String>,
    /// An absolute path inside.
    pub working_dir: String,
}

/// An error of combining.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Neither image nor task names a program.
    #[error("shell, argv: the image has no command; give one of them")]
    Missing,
    /// The task names it twice.
    #[error("shell, argv: give only one of them")]
    Conflict,
}

/// The search path of programs if neither image nor task sets one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Combines image and task.
///
/// # Errors
/// If there is no command, or more than one.
pub fn combine(
    image: &ImageConfig,
    task: CommandOverrides<'_>,
) -> Result<ContainerCommand, CommandError> {
    let argv = match (task.shell, task.argv) {
        ("", []) => [&image.entrypoint[..], &image.cmd].concat(),
        ("", argv) => [&image.entrypoint[..], argv].concat(),
        (shell, []) => ["/bin/sh", "-c", shell].map(str::to_owned).to_vec(),
        (_, _) => return Err(CommandError::Conflict),
    };
    if argv.is_empty() {
        return Err(CommandError::Missing);
    }
    let mut environment = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    environment.extend(image.env.iter().cloned());
    environment.extend(task.environment.clone());
    let users = [task.user, &image.user];
    let user = users.into_iter().find(|user| !user.is_empty());
    Ok(ContainerCommand {
        argv,
        environment,
        user: user.map(str::to_owned),
        working_dir: image.working_dir.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn argv_follows_the_entrypoint_and_a_shell_line_replaces_all() {
        // entrypoint, cmd | shell, argv | result
        for (entrypoint, cmd, shell, argv, wanted) in [
            ("", "", "", "", Err(CommandError::Missing)),
            ("", "serve", "", "", Ok("serve")),
            ("/entry", "", "", "", Ok("/entry")),
            ("/entry -x", "serve now", "", "", Ok("/entry -x serve now")),
            ("", "serve", "", "other 1", Ok("other 1")),
            ("/entry", "serve", "", "other 1", Ok("/entry other 1")),
            ("/entry", "", "", "other", Ok("/entry other")),
            ("", "", "", "other", Ok("other")),
            ("", "", "echo", "", Ok("/bin/sh -c echo")),
            ("/entry", "serve", "echo", "", Ok("/bin/sh -c echo")),
            ("/entry", "serve", "echo", "x", Err(CommandError::Conflict)),
        ] {
            let image = ImageConfig {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                ..ImageConfig::default()
            };
            let task = CommandOverrides {
                shell,
                argv: &words(argv),
                environment: &BTreeMap::new(),
                user: "",
            };
            let argv = combine(&image, task).map(|command| command.argv);
            assert_eq!(
                argv,
                wanted.map(words),
                "{entrypoint} {cmd} {shell} {argv:?}"
            );
        }
    }

    #[test]
    fn task_variables_override_those_of_the_image() {
        // the image's PATH and A, the task's A and B; the image's user, the task's
        for (image_env, task_env, wanted) in [
            ("", "", "PATH=default"),
            ("PATH=/i A=i", "", "A=i PATH=/i"),
            ("PATH=/i A=i", "A=t B=t", "A=t B=t PATH=/i"),
            ("A=i", "PATH=/t", "A=i PATH=/t"),
            ("A=i", "A=", "A= PATH=default"),
        ] {
            let pairs = |text: &str| -> Vec<(String, String)> {
                let pairs = text.split_whitespace().map(|pair| pair.split_once('='));
                let pairs = pairs.map(|pair| pair.unwrap());
                pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
            };
            let image = ImageConfig {
                cmd: words("run"),
                env: pairs(image_env),
                ..ImageConfig::default()
            };
            let task = CommandOverrides {
                shell: "",
                argv: &[],
                environment: &pairs(task_env).into_iter().collect(),
                user: "",
            };
            let found = combine(&image, task).unwrap().environment;
            let found: Vec<_> = found.iter().map(|(a, b)| format!("{a}={b}")).collect();
            let found = found.join(" ").replace(PATH, "default");
            assert_eq!(found, wanted, "{image_env} {task_env}");
        }
    }

    #[test]
    fn the_user_of_the_task_overrides_that_of_the_image() {
        for (image_user, task_user, wanted) in [
            ("", "", None),
            ("web:www", "", Some("web:www")),
            ("web", "1000", Some("1000")),
            ("", "root", Some("root")),
        ] {
            let image = ImageConfig {
                cmd: words("run"),
                user: image_user.to_owned(),
                working_dir: "/srv".to_owned(),
                ..ImageConfig::default()
            };
            let task = CommandOverrides {
                shell: "",
                argv: &[],
                environment: &BTreeMap::new(),
                user: task_user,
            };
            let command = combine(&image, task).unwrap();
            assert_eq!(command.user.as_deref(), wanted);
            assert_eq!(command.working_dir, "/srv");
        }
    }
}
