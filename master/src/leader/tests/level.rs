//! Tests of a leader's proposals at a level below its own.

use argosy_state::actor::Actor;
use argosy_state::agent::AgentInfo;
use argosy_state::command::{
    Accept, Call, CallAction, Command, Operate, OperatorOperation, RegisterAgent,
};
use argosy_state::fingerprint;
use argosy_state::ids::{AgentId, NodeId, Timestamp};
use argosy_state::level::{self, Level};
use argosy_state::task::{KillSignal, Sizes};
use argosy_state::testing::{self, spec};

use super::fixture::{LIMITS, new_agent};
use crate::leader::{Effect, Input, Leader, LeaderTime};
use crate::leader_reply::LeaderReply;
use crate::links::{LinkId, RequestId};

/// A leader and its registry; the test examines each effect.
struct LevelFixture {
    world: testing::World,
    leader: Leader,
}

fn at(world: &testing::World) -> LeaderTime {
    LeaderTime {
        at: world.now,
        wall_ms: 0,
    }
}

impl LevelFixture {
    fn new(level: Level) -> Self {
        let mut world = testing::World::empty();
        world.level = level;
        world.open_epoch(NodeId(1));
        let leader = Leader::new(&world.registry, at(&world), LIMITS);
        Self { world, leader }
    }

    /// Begins the next epoch, at the level that the registry has by now.
    fn new_leader(&mut self) {
        self.world.level = self.world.registry.level();
        self.world.open_epoch(NodeId(1));
        self.leader = Leader::new(&self.world.registry, at(&self.world), LIMITS);
    }

    /// Returns the proposals for an input.
    fn proposed(&mut self, input: Input) -> Vec<Command> {
        let now = at(&self.world);
        let effects = self.leader.step(&self.world.registry, now, input);
        let proposals = effects.into_iter().filter_map(|effect| match effect {
            Effect::Propose(proposed) => Some(proposed.command),
            _ => None,
        });
        proposals.collect()
    }

    /// Sends the hello of an agent, and applies the proposals for it.
    fn registered(&mut self, link: u64, agent: Option<AgentId>, info: AgentInfo) -> Vec<Command> {
        let mut hello = new_agent(7, "cpus:4");
        (hello.agent, hello.info) = (agent, info);
        let hello = Box::new(hello);
        let (link, actor) = (LinkId(link), Actor::Unauthenticated);
        let commands = self.proposed(Input::AgentHello { link, actor, hello });
        for command in commands.clone() {
            drop(self.world.apply(command));
        }
        commands
    }
}

fn info() -> AgentInfo {
    AgentInfo {
        capabilities: ["kill".to_owned(), "of-a-later-release".to_owned()].into(),
        largest_sizes: Sizes {
            open_files: Some(4_096),
            ..Sizes::default()
        },
        ..new_agent(7, "cpus:4").info
    }
}

fn stored(fixture: &LevelFixture) -> AgentInfo {
    let agent = fixture.world.registry.agent(AgentId(1));
    agent.expect("it is registered").report.info.clone()
}

#[test]
fn agent_facts_beyond_the_level_are_stored_in_the_epoch_after_the_raise() {
    let mut leader_fixture = LevelFixture::new(Level::RELEASE_0_1);
    let first = leader_fixture.registered(1, None, info());
    assert!(matches!(
        first[..],
        [Command::RegisterAgent(RegisterAgent { .. })]
    ));
    assert_eq!(
        stored(&leader_fixture),
        level::reported(Level::RELEASE_0_1, &info())
    );
    assert!(stored(&leader_fixture).capabilities.is_empty());
    leader_fixture.new_leader();
    let again = leader_fixture.registered(2, Some(AgentId(1)), info());
    assert_eq!(again, [], "nothing is new at this level");
    let level = Level::RELEASE_0_2;
    drop(leader_fixture.world.apply(Command::RaiseLevel { level }));
    leader_fixture.new_leader();
    // In addition, sweeps split the records of the former level.
    let commands = leader_fixture.registered(3, Some(AgentId(1)), info());
    let is_registration = |command: &&Command| matches!(command, Command::RegisterAgent(_));
    assert_eq!(commands.iter().filter(is_registration).count(), 1);
    assert_eq!(stored(&leader_fixture), info());
}

#[test]
fn a_call_beyond_the_level_is_refused_with_its_field_and_both_levels() {
    let mut leader_fixture = LevelFixture::new(Level::RELEASE_0_1);
    let framework = leader_fixture.world.subscribe("web");
    let mut signalled = spec("a", "cpus:1");
    signalled.kill_signal = Some(KillSignal::Int);
    let accept = Accept {
        offers: Vec::new(),
        operations: vec![argosy_state::command::OfferOperation::Launch(vec![
            signalled,
        ])],
        all_or_nothing: false,
        wall_ms: 0,
    };
    let call = Call {
        framework,
        session: leader_fixture
            .world
            .registry
            .framework(framework)
            .unwrap()
            .session,
        number: 1,
        lowest_unanswered: 1,
        hash: 1,
        action: CallAction::Accept(accept),
    };
    let command = Command::Call(call);
    assert_eq!(level::first_unsupported(Level::RELEASE_0_2, &command), None);
    let need = level::first_unsupported(Level::RELEASE_0_1, &command).expect("a field of 0.2.0");
    assert_eq!(need.what, "kill_policy.signal");
    // As the owner of the log returns it: the proposal was not accepted.
    let level = Level::RELEASE_0_2;
    drop(leader_fixture.proposed(Input::RaiseLevel {
        request: RequestId(9),
        actor: Actor::Unauthenticated,
        level,
    }));
    let now = at(&leader_fixture.world);
    let input = Input::BeyondLevel { serial: 1, need };
    let effects = leader_fixture
        .leader
        .step(&leader_fixture.world.registry, now, input);
    let [Effect::Answer(_, LeaderReply::Refused { code, message })] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(*code, "feature-level");
    let words = "kill_policy.signal needs feature level 3, and the cluster is at 2";
    assert!(message.starts_with(words), "{message}");
}

#[test]
fn requests_have_the_release_0_1_0_hash_until_the_level_is_raised() {
    let batch = Operate {
        request: Some(("alice".to_owned(), "r-1".to_owned())),
        hash: 5,
        operations: vec![OperatorOperation::Deactivate(AgentId(1))],
        wall_ms: 0,
    };
    let hash_at = |level| {
        let mut leader_fixture = LevelFixture::new(level);
        let input = Input::Operate {
            request: RequestId(1),
            actor: Actor::Unauthenticated,
            operate: batch.clone(),
        };
        match &leader_fixture.proposed(input)[..] {
            [Command::Operate(operate)] => operate.hash,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(hash_at(Level::RELEASE_0_2), 5);
    let theirs = fingerprint::batch_of_0_1_0(&batch);
    assert_eq!(hash_at(Level::RELEASE_0_1), theirs);
}

#[test]
fn mass_loss_is_recorded_from_level_3_and_transfers_before() {
    let lose = |level| {
        let mut leader_fixture = LevelFixture::new(level);
        for nonce in 0..40 {
            let mut register = testing::registration(1_000 + nonce, "cpus:1");
            register.info = level::reported(level, &register.info);
            drop(leader_fixture.world.apply(Command::RegisterAgent(register)));
        }
        leader_fixture.new_leader();
        let (mut recorded, mut handed_over) = (0, 0);
        for _ in 0..600 {
            leader_fixture.world.now = Timestamp(leader_fixture.world.now.0 + 100);
            let now = at(&leader_fixture.world);
            let effects =
                leader_fixture
                    .leader
                    .step(&leader_fixture.world.registry, now, Input::Tick);
            for effect in effects {
                match effect {
                    Effect::TransferLeadership => handed_over += 1,
                    Effect::Propose(proposed) if proposed.command == Command::MassLoss => {
                        recorded += 1;
                    }
                    Effect::Propose(proposed) => {
                        let entry = argosy_state::command::LogEntry {
                            at: leader_fixture.world.now,
                            commands: vec![*proposed],
                        };
                        drop(leader_fixture.world.apply_entry(&entry));
                    }
                    _ => {}
                }
            }
        }
        (recorded, handed_over)
    };
    assert_eq!(lose(Level::RELEASE_0_1), (0, 1));
    let (recorded, handed_over) = lose(Level::RELEASE_0_2);
    assert_eq!((recorded, handed_over), (1, 0), "it waits for its record");
}
