//! What a running process can take up of newly written settings: everything but its listeners and who it is.
//!
//! Both are named by others (an application's base URL, a Backend's endpoints, a peer's certificate), so a process that changed them
//! while it runs would leave whoever knows it by the old name.

use std::fmt::Display;
use std::net::SocketAddr;

use super::{Inbound, Outbound, ProxySettings};

/// A field that stays as it is until a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Such as `spec.outbound.listen`.
    pub field: &'static str,
    /// What stays.
    pub in_force: String,
    /// What is written.
    pub written: String,
}

impl ProxySettings {
    /// The settings from now on, and what of `written` has to wait for a restart.
    #[must_use]
    pub fn adopt(&self, written: Self) -> (Self, Vec<Kept>) {
        let kept: Vec<Kept> = [
            kept("metadata", &self.workload, &written.workload),
            kept("spec.identity", &self.identity, &written.identity),
            kept("spec.outbound.listen", outbound_address(self), outbound_address(&written)),
            kept("spec.inbound.listen", inbound_address(self), inbound_address(&written)),
            kept("spec.admin.listen", self.admin, written.admin),
        ]
        .into_iter()
        .flatten()
        .collect();
        let inbound = self.inbound.as_ref().map(|old| Inbound {
            listen: old.listen,
            applications: written.inbound.as_ref().unwrap_or(old).applications.clone(),
        });
        let mut next = Self {
            workload: self.workload.clone(),
            identity: self.identity.clone(),
            outbound: self.outbound.clone(),
            inbound,
            admin: self.admin,
            ..written
        };
        if next.inbound.is_some() && !next.needs_certificate() {
            // Written without the listener that stays.
            next.certificates.clone_from(&self.certificates);
            next.control_plane.clone_from(&self.control_plane);
        }
        (next, kept)
    }
}

fn kept(field: &'static str, in_force: impl Display, written: impl Display) -> Option<Kept> {
    let (in_force, written) = (in_force.to_string(), written.to_string());
    (in_force != written).then_some(Kept { field, in_force, written })
}

fn outbound_address(settings: &ProxySettings) -> String {
    address(settings.outbound.as_ref().map(|Outbound { listen }| *listen))
}

fn inbound_address(settings: &ProxySettings) -> String {
    address(settings.inbound.as_ref().map(|inbound| inbound.listen))
}

fn address(listen: Option<SocketAddr>) -> String {
    listen.map_or_else(|| "none".to_owned(), |listen| listen.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Source;

    fn settings(spec: &str) -> ProxySettings {
        let head = "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\n";
        let (metadata, spec) = spec.split_once('\n').unwrap_or((spec, ""));
        let text = format!("{head}metadata: {{name: {metadata}}}\nspec:\n{spec}");
        let source = Source { file: "proxy.yaml".to_owned(), text: text.clone() };
        crate::compile_proxy(&[source], Path::new("/etc")).unwrap_or_else(|why| panic!("{why:?}\n{text}")).0
    }

    const OUTBOUND: &str = "web\n  documents: routes\n  outbound: {listen: '127.0.0.1:4740'}\n";
    const INBOUND: &str = "chat
  controlPlane: {address: 'a:1', trustBundleFile: root.pem, tokenFile: token}
  outbound: {listen: '127.0.0.1:4740'}
  inbound: {listen: '10.0.0.7:4743', applications: [{endpoint: '10.0.0.7:8000'}]}
";

    fn check(old: &str, written: &str, expected: &[&str]) -> ProxySettings {
        let (old, written) = (settings(old), settings(written));
        let (next, kept) = old.adopt(written);
        let told: Vec<_> =
            kept.iter().map(|kept| format!("{} {} {}", kept.field, kept.in_force, kept.written)).collect();
        assert_eq!(told, expected);
        // What is in force is all that a second reading compares with.
        assert_eq!(next.adopt(next.clone()), (next.clone(), vec![]));
        next
    }

    #[test]
    fn what_is_no_listener_is_taken_up() {
        let written = format!(
            "{OUTBOUND}  limits: {{connectionsMax: 7, headerReadTimeout: 3s}}\n  accessLog: {{path: 'off'}}\n  \
             drain: {{deadline: 1s}}\n  dns: {{timeout: 1s}}\n  stateDir: state\n  logLevel: debug\n"
        )
        .replace("documents: routes", "documents: others");
        let next = check(OUTBOUND, &written, &[]);
        assert_eq!(next, settings(&written));
        let other = INBOUND.replace("endpoint: '10.0.0.7:8000'", "endpoint: '10.0.0.7:9000'");
        assert_eq!(check(INBOUND, &other, &[]), settings(&other));
        let other = INBOUND.replace("'a:1'", "'b:1'");
        assert_eq!(check(INBOUND, &other, &[]), settings(&other));
    }

    #[test]
    fn listeners_and_the_workload_stay_as_they_are_and_each_is_named() {
        let moved = OUTBOUND.replace("4740", "4741").replace("web", "db");
        let moved =
            format!("{moved}  admin: {{listen: '127.0.0.1:1'}}\n  identity: {{serviceAccount: db}}\n");
        let next = check(
            OUTBOUND,
            &moved,
            &[
                "metadata default/web default/db",
                "spec.identity spiffe://cluster.local/ns/default/sa/default \
                 spiffe://cluster.local/ns/default/sa/db",
                "spec.outbound.listen 127.0.0.1:4740 127.0.0.1:4741",
                "spec.admin.listen 0.0.0.0:4791 127.0.0.1:1",
            ],
        );
        assert_eq!(next, settings(OUTBOUND));
    }

    #[test]
    fn a_listener_neither_comes_nor_goes_and_what_it_needs_stays_with_it() {
        let without = INBOUND.replace(
            "chat\n  controlPlane: {address: 'a:1', trustBundleFile: root.pem, tokenFile: token}",
            "chat\n  documents: routes",
        );
        let without = without.split("  inbound").next().unwrap_or_default().to_owned();
        let next = check(INBOUND, &without, &["spec.inbound.listen 10.0.0.7:4743 none"]);
        assert_eq!(next.inbound, settings(INBOUND).inbound);
        assert_eq!(next.control_plane, settings(INBOUND).control_plane);
        assert_eq!(next.documents, settings(&without).documents);

        let next = check(&without, INBOUND, &["spec.inbound.listen none 10.0.0.7:4743"]);
        assert_eq!(next.inbound, None);
        let inbound_alone = INBOUND.replace("  outbound: {listen: '127.0.0.1:4740'}\n", "");
        check(INBOUND, &inbound_alone, &["spec.outbound.listen 127.0.0.1:4740 none"]);
    }
}
