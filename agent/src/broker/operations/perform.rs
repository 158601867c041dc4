//! Dispatch of requests to the functions that perform them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use argosy_isolation::network::{self, cni::Added};
use argosy_isolation::void;
use argosy_proto::v1;

use super::super::request::{Reply, Request};
use super::super::{folders, guard};
use super::{Operations, Performed};
use crate::disk;
use crate::error::sentence;
use crate::executors::Place;
use crate::runner::volumes;
use crate::sandbox;

impl Operations {
    #[expect(
        clippy::too_many_lines,
        reason = "one arm per request: the whole protocol is visible here"
    )]
    pub(in crate::broker) fn perform(
        &self,
        request: Request,
        mut descriptors: Vec<OwnedFd>,
    ) -> Performed {
        let done = |result: Result<(), String>| result.map(|()| (Reply::Done, Vec::new()));
        let plain = |reply: Reply| Ok((reply, Vec::new()));
        match request {
            Request::Open => Err("it is open".to_owned()),
            Request::MakeContainer(name) => done(folders::make_container(&self.paths, name)),
            Request::Launch(spec) => self.launch(&spec, descriptors.pop()),
            Request::Unpack {
                format,
                rules,
                target,
            } => self.unpack((format, rules), &target, descriptors),
            Request::Adopt(name) => self.adopt(name),
            Request::Void(name) => {
                let folder = self.paths.container(name);
                // An unprepared start will never be requested.
                done(match folder.exists() {
                    true => void(&folder).map(drop).map_err(|error| sentence(&error)),
                    false => Ok(()),
                })
            }
            Request::Destroy(name) => done(self.destroy(name)),
            Request::Begin { at, holder, user } => {
                let first = self.begin(&at, holder, &user)?;
                plain(Reply::Number(first.into()))
            }
            Request::Release { name, is_ended } => done(self.release(name, is_ended)),
            Request::RemoveContainer(name) => done(
                folders::remove(&self.paths.container(name)).map_err(|error| error.to_string()),
            ),
            Request::CountLaunchers => plain(Reply::Number(self.launching.look())),
            Request::TakeUsers(name) => {
                let taken = self.ids()?.take(name).map_err(|error| error.to_string());
                plain(Reply::Number(taken?.into()))
            }
            Request::ReturnUsers(name) => {
                let ids = self.host_ids.as_ref();
                let returned = ids.map_or(Ok(()), |ids| ids.give_back(name));
                done(returned.map_err(|error| error.to_string()))
            }
            Request::KeepUsers(known) => {
                let ids = self.host_ids.as_ref();
                let kept = ids.map_or(Ok(()), |ids| ids.keep_only(&known.into_iter().collect()));
                done(kept.map_err(|error| error.to_string()))
            }
            Request::MakeSandbox { at, owner } => done(self.make_sandbox(&at, owner.as_ref())),
            Request::LinkHostPaths { at, paths, viewer } => {
                let sandbox = self.sandbox(&at)?;
                let paths: Vec<_> = paths.into_iter().map(v1::HostPath::from).collect();
                let allowed = self.guard.host_paths();
                let seen = sandbox::host_paths(&sandbox, &paths, allowed, viewer);
                plain(Reply::HostPaths(seen.map_err(|error| error.to_string())?))
            }
            Request::ShareGroup {
                framework,
                group,
                name,
                first,
                owner,
            } => self.share_group((&framework, &group, name), first.as_ref(), owner.as_ref()),
            Request::RemoveSandboxes(leaving) => {
                for path in &leaving {
                    guard::is_removable(&self.paths, path)?;
                }
                crate::gc::remove(&self.paths, leaving);
                plain(Reply::Done)
            }
            Request::BoundDisk { at, bytes } => {
                done(self.bounds.take(at.name, &self.sandbox(&at)?, bytes))
            }
            Request::IsDiskBounded(at) => {
                let sandbox = self.sandbox(&at)?;
                plain(Reply::Is(self.bounds.is_bounded(at.name, &sandbox)))
            }
            Request::DiskUsage(at) => {
                let usage = disk::usage(&self.paths, at.name, &self.sandbox(&at)?);
                plain(Reply::Usage(usage))
            }
            Request::DiskKeeper(at) => {
                let keeper = disk::keeper(&self.paths, at.name, &self.sandbox(&at)?);
                plain(Reply::Keeper(keeper))
            }
            Request::Changes(name) => plain(Reply::Path(self.bounds.changes(name))),
            Request::ResumeDisks => {
                self.bounds.resume();
                plain(Reply::Done)
            }
            Request::Measure(step) => self.measure(step),
            Request::EndMeasure(pass) => {
                self.passes().waiting.remove(&pass);
                plain(Reply::Done)
            }
            Request::MakeRoot { at, holder, layers } => {
                self.make_root(&at, holder, layers, descriptors.pop())
            }
            Request::Layer(change) => {
                let changed = folders::change_layers(&self.paths, change);
                done(changed.map_err(|error| error.to_string()))
            }
            Request::MakePlace(name, guest) => {
                let made = Place::new(self.paths.executor(name)).make(&guest);
                done(made.map_err(|error| error.to_string()))
            }
            Request::ListenAtPlace(name) => {
                let place = Place::new(self.paths.executor(name));
                let (listener, peers, token) = place.listen().map_err(|error| error.to_string())?;
                let listening = Reply::Listening {
                    first_peer: *peers.start(),
                    last_peer: *peers.end(),
                    token,
                };
                Ok((listening, vec![listener.into()]))
            }
            Request::CheckSecret { role, name } => {
                done(volumes::secret(&name, &role, self.guard.secret_folder()).map(drop))
            }
            Request::CheckNetworks => {
                self.bridges.possible()?;
                let why = self.bridges.why_no_ipv6().map(str::to_owned);
                plain(Reply::Networks(why))
            }
            Request::TakeNetwork(name, ports) => {
                let joined = self.bridges.take(name, &ports);
                let joined = joined.map_err(|error| sentence(&error))?;
                let mut addresses = vec![IpAddr::V4(joined.address)];
                addresses.extend(joined.address6.map(IpAddr::V6));
                Ok((Reply::Network { addresses }, vec![joined.namespace]))
            }
            Request::NetworkAlone => {
                let namespace = network::alone().map_err(|error| sentence(&error))?;
                Ok((Reply::Done, vec![namespace]))
            }
            Request::ReleaseNetwork(name) => {
                done(self.bridges.release(name).map_err(|error| sentence(&error)))
            }
            Request::ResumeNetworks(known) => {
                let resumed = self.bridges.resume(&known.into_iter().collect());
                done(resumed.map_err(|error| sentence(&error)))
            }
            Request::RetryNetworks => done(self.bridges.retry().map_err(|error| sentence(&error))),
            Request::Traffic(name) => plain(Reply::Traffic(self.bridges.statistics(name))),
            Request::Plug { name, list, ports } => {
                let Added {
                    namespace,
                    addresses,
                } = self.plugs.add(name, &list, &ports)?;
                Ok((Reply::Network { addresses }, vec![namespace]))
            }
            Request::Unplug(name) => done(self.plugs.delete(name)),
            Request::Plugged => plain(Reply::Containers(self.plugs.held()?)),
            Request::SweepPlugged(known) => done(self.plugs.sweep(&known)),
            Request::CloseReach { tasks, content } => done(self.close_reach(tasks, content)),
            Request::ReplaceLimits(name, limits, policy) => {
                let missing = limits.replace(self.group_of(name)?.path(), policy);
                plain(Reply::Missing(missing.map_err(|error| sentence(&error))?))
            }
            Request::ApplyLimits(name, limits, policy) => {
                let missing = limits.apply(self.group_of(name)?.path(), policy);
                plain(Reply::Missing(missing.map_err(|error| sentence(&error))?))
            }
            Request::NoteCores(name, text) => done(folders::note_cores(&self.paths, name, &text)),
            Request::StartContent => self.start_content(),
            Request::EndContent => {
                self.end_content();
                plain(Reply::Done)
            }
            Request::Clear => {
                self.clear();
                plain(Reply::Done)
            }
        }
    }
}
