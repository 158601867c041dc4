//! Changes of secrets: bounds and versions. Values are sealed before they are proposed.

use crate::Registry;
use crate::command::Rejection;
use crate::ids::Role;
use crate::limits;
use crate::registry::{RecordKey, usage};
use crate::secret::{NONCE_BYTES, SealedSecret, SecretName};
use crate::task::TaskSpec;

impl Registry {
    /// Stores a value of a secret. It is refused if another value was stored since this one was
    /// sealed.
    pub(super) fn set_secret(
        &mut self,
        name: &SecretName,
        secret: &SealedSecret,
    ) -> Result<(), Rejection> {
        let present = self.secrets.get(name).map_or(0, |present| present.version);
        self.put_secret(name, secret, present + 1)
    }

    /// Replaces the seal of the present value, which has the nonce `replaces`. It is refused if
    /// there is another value by now.
    pub(super) fn reseal_secret(
        &mut self,
        name: &SecretName,
        secret: &SealedSecret,
        replaces: &[u8; NONCE_BYTES],
    ) -> Result<(), Rejection> {
        let present = self.secrets.get(name).ok_or_else(|| unknown(name))?;
        let resealed = SealedSecret {
            wall_ms: present.wall_ms,
            ..secret.clone()
        };
        // A repetition changes nothing.
        if *present == resealed {
            return Ok(());
        }
        if present.nonce != *replaces {
            return Err(Rejection::Conflict);
        }
        self.put_secret(name, &resealed, present.version)
    }

    fn put_secret(
        &mut self,
        name: &SecretName,
        secret: &SealedSecret,
        version: u64,
    ) -> Result<(), Rejection> {
        if let Some(text) = secret.invalid_part() {
            return Err(invalid(text));
        }
        if secret.version != version {
            return Err(Rejection::Conflict);
        }
        let former = self.secrets.get(name);
        if former.is_none() && self.secrets.len() >= limits::SECRETS {
            return Err(Rejection::Full(format!(
                "there are {} secrets, which is the most: remove some that are not needed",
                limits::SECRETS
            )));
        }
        let former = former.map_or(0, |former| usage::of_secret(name, former));
        let present = usage::of_secret(name, secret);
        let most = limits::SECRET_BYTES;
        if present > former && self.index.bytes.secrets - former + present > most {
            return Err(Rejection::Full(format!(
                "the secrets take {} MiB, which is the most: remove some that are not needed",
                most >> 20
            )));
        }
        self.index.bytes.secrets = self.index.bytes.secrets - former + present;
        self.secrets.insert(name.clone(), secret.clone());
        self.changed.insert(RecordKey::Secret(name.clone()));
        Ok(())
    }

    pub(super) fn remove_secret(&mut self, name: &SecretName) -> Result<(), Rejection> {
        let secret = self.secrets.get(name).ok_or_else(|| unknown(name))?;
        self.index.bytes.secrets -= usage::of_secret(name, secret);
        self.secrets.remove(name);
        self.changed.insert(RecordKey::Secret(name.clone()));
        Ok(())
    }
}

/// Checks that a task of this role may use the secrets of the registry that it names.
pub(super) fn check_task(spec: &TaskSpec, role: &Role) -> Result<(), Rejection> {
    let count = spec.registry_secrets().count();
    let most = limits::SECRETS_PER_TASK;
    if count > most {
        return Err(Rejection::Invalid {
            field: "volumes".to_owned(),
            text: format!("{count} of them are secrets of the registry; at most {most}"),
        });
    }
    for (at, volume) in spec.volumes.iter().enumerate() {
        if let Some(name) = volume.source.registry_secret()
            && !name.is_for(role)
        {
            let field = format!("volumes[{at}].secret");
            let text = format!(
                "{name} is for tasks of the role {} and those below it, not for the role {role}",
                name.role()
            );
            return Err(Rejection::Invalid { field, text });
        }
    }
    Ok(())
}

fn unknown(name: &SecretName) -> Rejection {
    invalid(format!("there is no secret {name} in the registry"))
}

fn invalid(text: String) -> Rejection {
    let field = "secret".to_owned();
    Rejection::Invalid { field, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CommandReply, OperatorOperation};
    use crate::secret::Ciphertext;
    use crate::task::{TaskVolume, VolumeSource};
    use crate::testing::{World, spec};

    fn set(name: &str, version: u64, length: usize) -> OperatorOperation {
        OperatorOperation::SetSecret {
            name: SecretName::new(name).unwrap(),
            secret: SealedSecret {
                version,
                key_id: "k1".to_owned(),
                ciphertext: Ciphertext(vec![1; length].into()),
                ..SealedSecret::default()
            },
        }
    }

    fn with_nonce(mut operation: OperatorOperation, number: u8) -> OperatorOperation {
        if let OperatorOperation::SetSecret { secret, .. } = &mut operation {
            secret.nonce = [number; NONCE_BYTES];
        }
        operation
    }

    fn reseal(name: &str, number: u8, replaces: u8) -> OperatorOperation {
        let OperatorOperation::SetSecret { name, secret } = with_nonce(set(name, 1, 20), number)
        else {
            unreachable!("it sets a secret");
        };
        OperatorOperation::ResealSecret {
            name,
            secret,
            replaces: [replaces; NONCE_BYTES],
        }
    }

    fn one(world: &mut World, operation: OperatorOperation) -> Result<(), Rejection> {
        match world.operate(operation) {
            Ok(CommandReply::Operate { mut outcomes, .. }) => outcomes.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_number_and_the_bytes_of_secrets_are_bounded() {
        let mut world = World::new();
        let large = limits::SECRET_VALUE_BYTES;
        let mut count = 0;
        let refused = loop {
            match one(&mut world, set(&format!("web/s{count}"), 1, large)) {
                Ok(()) => count += 1,
                Err(refused) => break refused,
            }
        };
        assert!(
            matches!(&refused, Rejection::Full(text) if text.contains("64 MiB")),
            "{refused}"
        );
        assert!((1_000..1_024).contains(&count), "{count}");
        // A shorter value of a known secret makes room.
        assert_eq!(one(&mut world, set("web/s0", 2, 16)), Ok(()));
        assert_eq!(one(&mut world, set("web/new", 1, large - 2_048)), Ok(()));
        world.registry.secrets.clear();
        for at in 0..limits::SECRETS {
            let name = SecretName::new(&format!("other/s{at}")).unwrap();
            let (_, secret) = SealedSecret::sample();
            world.registry.secrets.insert(name, secret);
        }
        world.registry.index = world.registry.indexes().unwrap();
        let refused = one(&mut world, set("web/more", 1, 16)).unwrap_err();
        assert!(
            matches!(&refused, Rejection::Full(text) if text.contains("4096")),
            "{refused}"
        );
    }

    /// Versions begin again at a removal, so they do not show that a value is another one.
    #[test]
    fn a_new_seal_of_a_removed_value_does_not_replace_the_value_that_was_set_since() {
        let mut world = World::new();
        let name = SecretName::new("web/db").unwrap();
        assert_eq!(one(&mut world, with_nonce(set("web/db", 1, 20), 1)), Ok(()));
        let late = reseal("web/db", 2, 1);
        let removed = OperatorOperation::RemoveSecret(name.clone());
        assert_eq!(one(&mut world, removed), Ok(()));
        assert_eq!(one(&mut world, with_nonce(set("web/db", 1, 20), 3)), Ok(()));
        assert_eq!(one(&mut world, late), Err(Rejection::Conflict));
        assert_eq!(
            world.registry.secrets.get(&name).unwrap().nonce,
            [3; NONCE_BYTES]
        );
        // That of the present value does, also repeated.
        for _ in 0..2 {
            assert_eq!(one(&mut world, reseal("web/db", 4, 3)), Ok(()));
            assert_eq!(
                world.registry.secrets.get(&name).unwrap().nonce,
                [4; NONCE_BYTES]
            );
        }
    }

    #[test]
    fn a_task_uses_secrets_of_its_role_and_of_the_roles_above_it() {
        let with = |text: &str| TaskSpec {
            volumes: vec![TaskVolume {
                container_path: "/run/secrets/db".to_owned(),
                read_only: true,
                source: VolumeSource::Secret(text.to_owned()),
            }],
            ..spec("web-1", "cpus:1")
        };
        let check = |text: &str, role: &str| check_task(&with(text), &Role::new(role).unwrap());
        assert_eq!(check("eng/db", "eng"), Ok(()));
        assert_eq!(check("eng/db", "eng/backend"), Ok(()));
        // A plain name is a secret of the agent.
        assert_eq!(check("db", "ops"), Ok(()));
        for role in ["*", "ops", "engine"] {
            let refused = check("eng/db", role).unwrap_err().to_string();
            assert!(
                refused.starts_with("volumes[0].secret: eng/db is for"),
                "{refused}"
            );
        }
        let mut many = with("eng/db");
        many.volumes = vec![many.volumes[0].clone(); limits::SECRETS_PER_TASK];
        let role = Role::new("eng").unwrap();
        assert_eq!(check_task(&many, &role), Ok(()));
        many.volumes.push(many.volumes[0].clone());
        assert!(check_task(&many, &role).is_err());
    }
}
