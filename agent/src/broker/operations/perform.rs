//! Dispatch of requests to the functions that perform them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use argosy_isolation::cancel_start;
use argosy_network::cni::CniResult;
use argosy_proto::v1;

use super::super::{directories, guard};
use super::PrivilegedOperations;
use crate::broker_client::BrokerClient;
use crate::broker_client::request::{BrokerReply, BrokerRequest, OperationResult};
use crate::disk;
use crate::error::error_chain;
use crate::executors::ExecutorDirectory;
use crate::runner::volumes;
use crate::sandbox;

impl PrivilegedOperations {
    /// Returns a client that performs the operations in this process.
    pub(crate) fn into_client(self) -> BrokerClient {
        BrokerClient::Local(Arc::new(move |request, descriptors| {
            self.perform(request, descriptors)
        }))
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm per request: the whole protocol is visible here"
    )]
    pub(in crate::broker) fn perform(
        &self,
        request: BrokerRequest,
        descriptors: Vec<OwnedFd>,
    ) -> OperationResult {
        let done = |result: Result<(), String>| result.map(|()| (BrokerReply::Done, Vec::new()));
        let plain = |reply: BrokerReply| Ok((reply, Vec::new()));
        let is_removable = |path: &PathBuf| guard::is_removable(&self.paths, path);
        match request {
            BrokerRequest::Open => Err("it is open".to_owned()),
            BrokerRequest::MakeContainer(name) => {
                done(directories::make_container(&self.paths, name))
            }
            BrokerRequest::Launch(spec) => self.launch(&spec, descriptors),
            BrokerRequest::Unpack {
                format,
                rules,
                target,
            } => self.unpack((format, rules), &target, descriptors),
            BrokerRequest::Adopt(name) => self.adopt(name),
            BrokerRequest::CancelStart(name) => {
                let directory = self.paths.container(name);
                // An unprepared start will never be requested.
                done(match directory.exists() {
                    true => cancel_start(&directory).map(drop).map_err(chained),
                    false => Ok(()),
                })
            }
            BrokerRequest::Destroy(name) => done(self.destroy(name)),
            BrokerRequest::Begin { at, holder, user } => {
                let first = self.begin(&at, holder, &user)?;
                plain(BrokerReply::Number(first.into()))
            }
            BrokerRequest::Release { name, is_ended } => done(self.release(name, is_ended)),
            BrokerRequest::RemoveContainer(name) => done(
                directories::remove(&self.paths.container(name)).map_err(|error| error.to_string()),
            ),
            BrokerRequest::CountLaunchers => {
                plain(BrokerReply::Number(self.launcher.replace_if_dead()))
            }
            BrokerRequest::AllocateUsers(name) => {
                let taken = self
                    .ids()?
                    .allocate(name)
                    .map_err(|error| error.to_string());
                plain(BrokerReply::Number(taken?.into()))
            }
            BrokerRequest::ReleaseUsers(name) => {
                let ids = self.host_ids.as_ref();
                let returned = ids.map_or(Ok(()), |ids| ids.release(name));
                done(returned.map_err(|error| error.to_string()))
            }
            BrokerRequest::RetainUsers(known) => {
                let ids = self.host_ids.as_ref();
                let kept = ids.map_or(Ok(()), |ids| ids.retain(&known.into_iter().collect()));
                done(kept.map_err(|error| error.to_string()))
            }
            BrokerRequest::MakeSandbox { at, owner } => {
                done(self.make_sandbox(&at, owner.as_ref()))
            }
            BrokerRequest::LinkHostPaths { at, paths, viewer } => {
                let sandbox = self.sandbox(&at)?;
                let paths: Vec<_> = paths.into_iter().map(v1::HostPath::from).collect();
                let allowed = self.guard.host_paths();
                let seen = sandbox::host_paths(&sandbox, &paths, allowed, viewer);
                plain(BrokerReply::HostPaths(
                    seen.map_err(|error| error.to_string())?,
                ))
            }
            BrokerRequest::ShareGroup {
                framework,
                group,
                name,
                first,
                owner,
            } => self.share_group((&framework, &group, name), first.as_ref(), owner.as_ref()),
            BrokerRequest::RemoveSandboxes(leaving) => {
                leaving.iter().try_for_each(is_removable)?;
                crate::gc::remove(&self.paths, leaving);
                plain(BrokerReply::Done)
            }
            BrokerRequest::ReduceSandboxes(ended) => {
                ended.iter().try_for_each(is_removable)?;
                crate::gc::reduce(&self.paths, ended, self.guard.max_kept_bytes());
                plain(BrokerReply::Done)
            }
            BrokerRequest::LimitDisk { at, bytes } => {
                done(self.limits.limit(at.name, &self.sandbox(&at)?, bytes))
            }
            BrokerRequest::IsDiskLimited(at) => {
                let sandbox = self.sandbox(&at)?;
                plain(BrokerReply::Bool(self.limits.is_limited(at.name, &sandbox)))
            }
            BrokerRequest::DiskUsage(at) => {
                let usage = disk::usage(&self.paths, at.name, &self.sandbox(&at)?);
                plain(BrokerReply::Usage(usage))
            }
            BrokerRequest::QuotaScope(at) => {
                let quota_scope = disk::scope(&self.paths, at.name, &self.sandbox(&at)?);
                plain(BrokerReply::QuotaScope(quota_scope))
            }
            BrokerRequest::ChangesDirectory(name) => {
                plain(BrokerReply::Path(self.limits.changes(name)))
            }
            BrokerRequest::ResumeDisks => {
                self.limits.resume();
                plain(BrokerReply::Done)
            }
            BrokerRequest::Measure(step) => self.measure(step),
            BrokerRequest::EndMeasure(pass) => {
                self.scans().suspended.remove(&pass);
                plain(BrokerReply::Done)
            }
            BrokerRequest::MakeRoot { at, holder, layers } => {
                self.make_root(&at, holder, layers, descriptors.into_iter().next())
            }
            BrokerRequest::Layer(change) => {
                let changed = directories::change_layers(&self.paths, change);
                done(changed.map_err(|error| error.to_string()))
            }
            BrokerRequest::LayerMetadata(name) => {
                let json = directories::layer_metadata(&self.paths, &name);
                let json = json.map_err(|error| error.to_string())?;
                plain(BrokerReply::LayerMetadata(json))
            }
            BrokerRequest::MakeExecutorDirectory(name, guest) => {
                let made = ExecutorDirectory::new(self.paths.executor(name)).make(&guest);
                done(made.map_err(|error| error.to_string()))
            }
            BrokerRequest::ListenForExecutor(name) => {
                let place = ExecutorDirectory::new(self.paths.executor(name));
                let (listener, peers, token) = place.listen().map_err(|error| error.to_string())?;
                let listening = BrokerReply::Listening {
                    first_peer: *peers.start(),
                    last_peer: *peers.end(),
                    token,
                };
                Ok((listening, vec![listener.into()]))
            }
            BrokerRequest::CheckSecret { role, name } => {
                done(volumes::secret(&name, &role, self.guard.secret_dir()).map(drop))
            }
            BrokerRequest::CheckNetworks => {
                self.bridges.check_support()?;
                let why = self.bridges.why_no_ipv6().map(str::to_owned);
                plain(BrokerReply::Networks(why))
            }
            BrokerRequest::AllocateNetwork(name, ports) => {
                let joined = self.bridges.allocate(name, &ports).map_err(chained)?;
                let mut addresses = vec![IpAddr::V4(joined.address)];
                addresses.extend(joined.address6.map(IpAddr::V6));
                Ok((BrokerReply::Network { addresses }, vec![joined.namespace]))
            }
            BrokerRequest::NewNetworkNamespace => {
                let namespace = argosy_network::create_isolated().map_err(chained)?;
                Ok((BrokerReply::Done, vec![namespace]))
            }
            BrokerRequest::ReleaseNetwork(name) => {
                done(self.bridges.release(name).map_err(chained))
            }
            BrokerRequest::ResumeNetworks(known) => {
                let resumed = self.bridges.resume(&known.into_iter().collect());
                done(resumed.map_err(chained))
            }
            BrokerRequest::RetryNetworks => done(self.bridges.retry().map_err(chained)),
            BrokerRequest::RestoreNetworkRules => {
                let were_missing = self.bridges.restore_rules().map_err(chained)?;
                plain(BrokerReply::Bool(were_missing))
            }
            BrokerRequest::Traffic(name) => {
                plain(BrokerReply::Traffic(self.bridges.statistics(name)))
            }
            BrokerRequest::AttachCni { name, list, ports } => {
                let CniResult {
                    namespace,
                    addresses,
                } = self.cni.add(name, &list, &ports)?;
                Ok((BrokerReply::Network { addresses }, vec![namespace]))
            }
            BrokerRequest::DetachCni(name) => done(self.cni.delete(name)),
            BrokerRequest::ListCni => plain(BrokerReply::Containers(self.cni.containers()?)),
            BrokerRequest::CleanUpCni(known) => done(self.cni.sweep(&known)),
            BrokerRequest::BlockEndpoints { tasks, content } => {
                done(self.block_endpoints(tasks, content))
            }
            BrokerRequest::ReplaceLimits(name, limits, policy) => {
                let missing = limits.replace(self.group_of(name)?.path(), policy);
                plain(BrokerReply::Missing(missing.map_err(chained)?))
            }
            BrokerRequest::ApplyLimits(name, limits, policy) => {
                let missing = limits.apply(self.group_of(name)?.path(), policy);
                plain(BrokerReply::Missing(missing.map_err(chained)?))
            }
            BrokerRequest::RecordCpuset(name, text) => {
                done(directories::record_cpus(&self.paths, name, &text))
            }
            BrokerRequest::StartContent => self.start_content(),
            BrokerRequest::EndContent { generation } => {
                self.content.end(generation);
                plain(BrokerReply::Done)
            }
            BrokerRequest::Shutdown => {
                self.clear();
                plain(BrokerReply::Done)
            }
        }
    }
}

fn chained<E: std::error::Error>(error: E) -> String {
    error_chain(&error)
}
