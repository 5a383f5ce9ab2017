//! The guard: a name resolves once, every address it has is looked at, and those that were looked at are the ones dialled.
//!
//! One refused address refuses the name: who answers with a public and a private one hopes for the second. Addresses of a
//! metadata service are refused even where a destination may be private. IPv6 is only dialled within 2000::/3, and there not
//! in forms that carry an IPv4 address (6to4, Teredo), whatever that address is.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};
use keyfold_core::error::Hint;
use tokio::{sync::Semaphore, time::timeout};

use super::host::Host;

/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many names are looked up at once: each holds a thread until the system's resolver gives up, also where nobody waits any more.
const LOOKUPS: usize = 64;
/// How many of these may be one destination's, so that names of it that nobody answers for do not hold up the others.
const OF_ONE: usize = 4;
/// How many addresses of a name are kept.
const MAX_ADDRESSES: usize = 16;

/// Why a host is not dialled.
#[non_exhaustive]
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum GuardError {
    /// An address that nothing may be sent to.
    #[error("{host} resolves to {what}, which the proxy does not call")]
    Refused {
        /// The host.
        host: Host,
        /// The kind of address. The address itself is not told: it describes an internal network.
        what: &'static str,
        /// Whether the destination could allow it.
        private: bool,
    },
    /// The resolver knows no address.
    #[error("{host} does not resolve")]
    Unknown {
        /// The host.
        host: Host,
    },
    /// The resolver did not answer in time, or too many names are asked for.
    #[error("{host} was not resolved in time")]
    Late {
        /// The host.
        host: Host,
    },
}

impl Hint for GuardError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused { private: true, .. } => {
                "if the destination is meant to lie in a private network, say so at it: `private = true`".into()
            }
            Self::Refused { .. } => "no destination can allow this kind of address".into(),
            Self::Unknown { .. } => "check the name, and the resolver of the machine that Keyfold runs on".into(),
            Self::Late { .. } => "check the resolver of the machine that Keyfold runs on, and try again".into(),
        })
    }
}

/// What an address is, where it is not simply somebody's on the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A destination may say that it lies there.
    Private(&'static str),
    /// Nothing is ever sent there.
    Never(&'static str),
}

/// Credentials of machines are had there, so they come first. 168.63.129.16 is Azure's, and public.
const METADATA_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0xa9fe, 0xa9fe, 0, 0),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

/// The special-purpose registry of IANA, and what is not handed out.
const V4: [(Ipv4Net, Kind); 18] = [
    (v4(10, 0, 0, 0, 8), Kind::Private("a private address")),
    (v4(172, 16, 0, 0, 12), Kind::Private("a private address")),
    (v4(192, 168, 0, 0, 16), Kind::Private("a private address")),
    (v4(127, 0, 0, 0, 8), Kind::Private("a loopback address")),
    (v4(100, 64, 0, 0, 10), Kind::Private("an address behind a carrier's translation")),
    (v4(0, 0, 0, 0, 8), Kind::Never("an unspecified address")),
    (v4(169, 254, 0, 0, 16), Kind::Never("a link-local address")),
    (v4(192, 0, 0, 0, 24), Kind::Never("a reserved address")),
    (v4(192, 0, 2, 0, 24), Kind::Never("a documentation address")),
    (v4(198, 51, 100, 0, 24), Kind::Never("a documentation address")),
    (v4(203, 0, 113, 0, 24), Kind::Never("a documentation address")),
    (v4(198, 18, 0, 0, 15), Kind::Never("a benchmarking address")),
    (v4(192, 88, 99, 0, 24), Kind::Never("a 6to4 relay's address")),
    (v4(192, 31, 196, 0, 24), Kind::Never("a reserved address")),
    (v4(192, 52, 193, 0, 24), Kind::Never("a reserved address")),
    (v4(192, 175, 48, 0, 24), Kind::Never("a reserved address")),
    (v4(224, 0, 0, 0, 4), Kind::Never("a multicast address")),
    (v4(240, 0, 0, 0, 4), Kind::Never("a reserved or broadcast address")),
];

const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

/// The first that contains an address counts; what none contains is somebody's.
const V6: [(Ipv6Net, Kind); 17] = [
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), Kind::Private("a loopback address")),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), Kind::Never("an unspecified address")),
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), Kind::Never("a mapped IPv4 address")),
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96), Kind::Never("a translated IPv4 address")),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96), Kind::Never("a compatible IPv4 address")),
    (v6(0x64, 0xff9b, 0, 96), Kind::Never("a NAT64 address")),
    (v6(0x64, 0xff9b, 1, 48), Kind::Never("a local NAT64 address")),
    (v6(0xfc00, 0, 0, 7), Kind::Private("a unique local address")),
    (v6(0xfe80, 0, 0, 10), Kind::Never("a link-local address")),
    (v6(0xfec0, 0, 0, 10), Kind::Never("a site-local address")),
    (v6(0xff00, 0, 0, 8), Kind::Never("a multicast address")),
    (v6(0x2001, 0, 0, 32), Kind::Never("a Teredo address")),
    (v6(0x2001, 0, 0, 23), Kind::Never("a reserved address")),
    (v6(0x2001, 0xdb8, 0, 32), Kind::Never("a documentation address")),
    (v6(0x2002, 0, 0, 16), Kind::Never("a 6to4 address")),
    (v6(0x3fff, 0, 0, 20), Kind::Never("a documentation address")),
    (v6(0x2620, 0x4f, 0x8000, 48), Kind::Never("a reserved address")),
];

/// Addresses that were ever handed out to somebody.
const GLOBAL: Ipv6Net = v6(0x2000, 0, 0, 3);

fn kind(address: IpAddr) -> Option<Kind> {
    const METADATA: Kind = Kind::Never("a metadata service");
    match address {
        IpAddr::V4(address) if METADATA_V4.contains(&address) => Some(METADATA),
        IpAddr::V4(address) => V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, kind)| *kind),
        IpAddr::V6(address) if METADATA_V6.contains(&address) => Some(METADATA),
        IpAddr::V6(address) => V6
            .iter()
            .find(|(net, _)| net.contains(&address))
            .map(|(_, kind)| *kind)
            .or_else(|| (!GLOBAL.contains(&address)).then_some(Kind::Never("a reserved address")))
            // The interface id of ISATAP carries an IPv4 address too, under anybody's prefix.
            .or_else(|| {
                let s = address.segments();
                (matches!(s[4], 0 | 0x200) && s[5] == 0x5efe).then_some(Kind::Never("an ISATAP address"))
            }),
    }
}

/// What keeps an address from being called by a destination that says nothing about private ones.
#[cfg(test)]
pub(crate) fn refused(address: IpAddr) -> Option<&'static str> {
    kind(address).map(|kind| match kind {
        Kind::Private(what) | Kind::Never(what) => what,
    })
}

/// How a name is looked up: with the system's resolver, on a thread that it holds until that has answered.
type Resolver = fn(&str, u16) -> Vec<SocketAddr>;

fn system(host: &str, port: u16) -> Vec<SocketAddr> {
    std::net::ToSocketAddrs::to_socket_addrs(&(host, port)).map_or_else(|_| Vec::new(), Iterator::collect)
}

/// The guard.
pub(crate) struct Guard {
    lookups: Arc<Semaphore>,
    patience: Duration,
    resolver: Resolver,
}

impl Default for Guard {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)), patience: PATIENCE, resolver: system }
    }
}

impl Guard {
    /// For one destination, which has its own share of the lookups.
    pub(crate) fn of_one(&self) -> Lookups {
        Lookups {
            all: Arc::clone(&self.lookups),
            own: Arc::new(Semaphore::new(OF_ONE)),
            patience: self.patience,
            resolver: self.resolver,
        }
    }
}

/// The guard of one destination.
pub(crate) struct Lookups {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    patience: Duration,
    resolver: Resolver,
}

impl Lookups {
    /// The addresses to dial. Who dials takes one of these and asks no resolver again.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub(crate) async fn resolve(
        &self,
        host: &Host,
        port: u16,
        private_allowed: bool,
    ) -> Result<Vec<SocketAddr>, GuardError> {
        if let Some(address) = host.address() {
            return check(host, vec![SocketAddr::new(address, port)], private_allowed);
        }
        let late = || GuardError::Late { host: host.clone() };
        let found = timeout(self.patience, async {
            // Its own first: who waits for that holds nothing of the others'.
            let own = Arc::clone(&self.own).acquire_owned().await.map_err(|_| late())?;
            let all = Arc::clone(&self.all).acquire_owned().await.map_err(|_| late())?;
            let (resolver, name) = (self.resolver, host.as_str().to_owned());
            let asked = tokio::task::spawn_blocking(move || {
                // Until the thread is free again, however long ago somebody stopped waiting for it.
                let _room = (own, all);
                resolver(&name, port)
            });
            asked.await.map_err(|_| late())
        });
        check(host, found.await.map_err(|_| late())??, private_allowed)
    }
}

/// All of them, or none.
fn check(host: &Host, mut found: Vec<SocketAddr>, private_allowed: bool) -> Result<Vec<SocketAddr>, GuardError> {
    for address in &found {
        let (what, private) = match kind(address.ip()) {
            None => continue,
            Some(Kind::Private(_)) if private_allowed => continue,
            Some(Kind::Private(what)) => (what, true),
            Some(Kind::Never(what)) => (what, false),
        };
        return Err(GuardError::Refused { host: host.clone(), what, private });
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|address| seen.insert(*address));
    found.truncate(MAX_ADDRESSES);
    if found.is_empty() { Err(GuardError::Unknown { host: host.clone() }) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn p33_special_addresses_are_refused_by_their_kind() {
        for (address, what) in [
            ("10.1.2.3", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("127.0.0.1", "loopback"),
            ("127.255.0.3", "loopback"),
            ("100.64.0.1", "carrier"),
            ("100.100.100.200", "metadata"),
            ("169.254.169.254", "metadata"),
            ("169.254.170.2", "metadata"),
            ("168.63.129.16", "metadata"),
            ("169.254.1.1", "link-local"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("192.0.2.7", "documentation"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("198.19.0.1", "benchmarking"),
            ("192.88.99.1", "6to4"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.250", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:8.8.8.8", "mapped"),
            ("::ffff:169.254.169.254", "mapped"),
            ("::ffff:0:8.8.8.8", "translated"),
            ("::8.8.8.8", "compatible"),
            ("::127.0.0.1", "compatible"),
            ("64:ff9b::8.8.8.8", "NAT64"),
            ("64:ff9b::a9fe:a9fe", "NAT64"),
            ("64:ff9b:1::1", "local NAT64"),
            ("64:ff9b:1:ffff::", "local NAT64"),
            ("2002:7f00:1::", "6to4"),
            ("2002:808:808::1", "6to4"),
            ("2001::1", "Teredo"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
            ("2001:2::1", "reserved"),
            ("2001:20::1", "reserved"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("fc00::1", "unique local"),
            ("fd12::1", "unique local"),
            ("fd00:ec2::254", "metadata"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("100::1", "reserved"),
            ("4000::1", "reserved"),
            ("5f00::1", "reserved"),
            ("2a00:1450::5efe:a00:1", "ISATAP"),
            ("2a00:1450::200:5efe:a00:1", "ISATAP"),
        ] {
            let found = refused(ip(address)).unwrap_or("nothing");
            assert!(found.contains(what), "{address}: {found}");
        }
        for address in
            ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.254", "2606:4700::1111", "2001:4860::1"]
        {
            assert_eq!(refused(ip(address)), None, "{address}");
        }
    }

    fn host() -> Host {
        Host::parse("a.example").unwrap()
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| SocketAddr::new(ip(address), 443)).collect()
    }

    #[test]
    fn p33_one_refused_address_refuses_the_name() {
        for list in [&["8.8.8.8", "10.0.0.1"][..], &["10.0.0.1", "8.8.8.8"], &["2606:4700::1111", "::ffff:10.0.0.1"]] {
            assert!(matches!(check(&host(), addresses(list), false), Err(GuardError::Refused { .. })), "{list:?}");
        }
        let good = addresses(&["8.8.8.8", "2606:4700::1111"]);
        assert_eq!(check(&host(), good.clone(), false), Ok(good));
        assert_eq!(check(&host(), addresses(&["8.8.8.8"; 3]), false), Ok(addresses(&["8.8.8.8"])));
        assert_eq!(check(&host(), Vec::new(), false), Err(GuardError::Unknown { host: host() }));
    }

    #[test]
    fn p33_a_destination_that_may_be_private_still_reaches_no_metadata_service() {
        for good in ["10.0.0.1", "127.0.0.1", "::1", "fd12::1", "100.64.0.1"] {
            assert!(check(&host(), addresses(&[good]), true).is_ok(), "{good}");
        }
        for bad in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "fe80::1",
        ] {
            assert!(check(&host(), addresses(&["10.0.0.1", bad]), true).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn p33_names_and_literals_go_through_the_same_check() {
        let guard = Guard::default().of_one();
        for text in ["127.0.0.1", "localhost", "::1", "169.254.169.254"] {
            let host = Host::parse(text).unwrap();
            let error = guard.resolve(&host, 443, false).await.unwrap_err();
            assert!(matches!(error, GuardError::Refused { .. }), "{text}: {error}");
            assert!(!error.to_string().contains("127.0.0.1 resolves to 127"), "the address is not told");
        }
        let local = guard.resolve(&Host::parse("localhost").unwrap(), 8443, true).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 8443));
    }

    /// Answers for one name, and takes its time for others.
    fn slow(host: &str, port: u16) -> Vec<SocketAddr> {
        if host != "quick.example" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        vec![SocketAddr::new(ip("8.8.8.8"), port)]
    }

    #[tokio::test]
    async fn a_resolver_that_does_not_answer_is_not_waited_for_and_holds_up_its_own_destination_alone() {
        let patience = Duration::from_millis(100);
        let guard = Guard { lookups: Arc::new(Semaphore::new(2 * OF_ONE)), patience, resolver: slow };
        let (hanging, other) = (guard.of_one(), guard.of_one());
        let names: Vec<_> = (0..100).map(|n| Host::parse(&format!("n{n}.example")).unwrap()).collect();
        let asked = futures::future::join_all(names.iter().map(|name| hanging.resolve(name, 443, false))).await;
        for (name, result) in names.iter().zip(asked) {
            assert_eq!(result, Err(GuardError::Late { host: name.clone() }));
        }
        assert_eq!(hanging.own.available_permits(), 0, "its threads are still held");
        assert_eq!(guard.lookups.available_permits(), OF_ONE, "and are counted as that");
        let quick = Host::parse("quick.example").unwrap();
        assert_eq!(other.resolve(&quick, 443, false).await, Ok(addresses(&["8.8.8.8"])));
        assert!(hanging.resolve(&quick, 443, false).await.is_err(), "its own destination waits");
    }

    proptest! {
        #[test]
        fn p33_an_ipv4_address_in_any_ipv6_form_is_refused(bits: u32, low: u16) {
            let [high4, low4] = [u16::try_from(bits >> 16).unwrap(), u16::try_from(bits & 0xffff).unwrap()];
            for form in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high4, low4),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high4, low4),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high4, low4),
                Ipv6Addr::new(0x64, 0xff9b, 1, low, 0, 0, high4, low4),
                Ipv6Addr::new(0x2002, high4, low4, low, 0, 0, 0, low),
                Ipv6Addr::new(0x2001, 0, low, low, low, low, !high4, !low4),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high4, low4),
            ] {
                prop_assert!(refused(form.into()).is_some(), "{form}");
            }
        }

        #[test]
        fn p33_what_the_library_calls_special_is_refused(bits: u32, v6: u128) {
            let v4 = Ipv4Addr::from(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
                || v4.is_documentation() || v4.is_unspecified()
            {
                prop_assert!(refused(v4.into()).is_some(), "{v4}");
            }
            let v6 = Ipv6Addr::from(v6);
            if v6.segments()[0] & 0xe000 != 0x2000 {
                prop_assert!(refused(v6.into()).is_some(), "{v6}");
            }
        }
    }
}
