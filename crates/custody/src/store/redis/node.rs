//! One server, and the connection to it, which is made anew when it broke.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, TlsCertificates, TlsMode, Value,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{sync::Mutex, time::timeout};

use super::{
    address::{Kind, RedisAddress},
    reply,
    sweep::Sweep,
};

/// How long a connection may take to be made, TLS and login included.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take. A page of large values over a slow line is meant to fit.
pub(super) const ANSWER: Duration = Duration::from_secs(30);

/// Whether a command may be run again where its answer got lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It changes nothing.
    None,
    /// It changes something.
    Some,
}

/// A server. Its calls share one connection and are pipelined on it.
pub(super) struct Node {
    dial: Dial,
    live: Mutex<Option<Live>>,
    pub(super) sweep: Sweep,
}

enum Dial {
    Direct(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
}

/// A connection, with what the server behind it said about itself. A server that was restarted cannot be behind the same
/// connection, so this stays true.
#[derive(Clone)]
pub(super) struct Live {
    connection: MultiplexedConnection,
    pub(super) server: Arc<Server>,
}

/// What a server says about itself.
#[derive(Debug)]
pub(super) struct Server {
    /// New with each start; what a SCAN cursor means depends on it.
    pub(super) run: String,
    pub(super) version: (u32, u32),
    pub(super) is_cluster: bool,
}

impl Node {
    /// A server at an address. Nothing is connected yet.
    pub(super) fn at(
        address: &RedisAddress,
        host: &str,
        port: u16,
        certificates: Option<&TlsCertificates>,
    ) -> Result<Self, RedisError> {
        let info = address.server(host, port)?;
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone())?,
            None => Client::open(info)?,
        };
        Ok(Self { dial: Dial::Direct(Box::new(client)), live: Mutex::new(None), sweep: Sweep::default() })
    }

    /// Whichever server the sentinels call the master of `service`.
    pub(super) fn behind_sentinels(
        address: &RedisAddress,
        certificates: Option<&TlsCertificates>,
    ) -> Result<Self, RedisError> {
        let Kind::Sentinel { service, login } = &address.kind else {
            return Err((ErrorKind::InvalidClientConfig, "the address names no sentinels").into());
        };
        let sentinels = address.hosts.iter().map(|(host, port)| address.address(host, *port));
        let mut builder = SentinelClientBuilder::new(sentinels, service, SentinelServerType::Master)?;
        let (info, tls) = address.behind_sentinel();
        builder = builder.set_client_to_redis_db(info.db());
        if let Some(user) = info.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = info.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = &login.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &login.password {
            builder = builder.set_client_to_sentinel_password(password.as_str());
        }
        if tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = certificates {
            builder = builder.set_client_to_redis_certificates(certificates.clone());
            builder = builder.set_client_to_sentinel_certificates(certificates.clone());
        }
        let dial = Dial::Sentinel(Box::new(Mutex::new(builder.build()?)));
        Ok(Self { dial, live: Mutex::new(None), sweep: Sweep::default() })
    }

    /// The connection; made now where there is none.
    pub(super) async fn live(&self) -> Result<Live, RedisError> {
        let mut slot = self.live.lock().await;
        if let Some(live) = &*slot {
            return Ok(live.clone());
        }
        let mut connection = timeout(CONNECT * 2, self.dial()).await.unwrap_or_else(|_| Err(timed_out()))?;
        let info = connection.send_packed_command(redis::cmd("INFO").arg("server")).await?;
        let server = Arc::new(Server::parse(&reply::text(info)?));
        let live = Live { connection, server };
        *slot = Some(live.clone());
        Ok(live)
    }

    async fn dial(&self) -> Result<MultiplexedConnection, RedisError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        match &self.dial {
            Dial::Direct(client) => client.get_multiplexed_async_connection_with_config(&config).await,
            Dial::Sentinel(client) => client.lock().await.get_async_connection_with_config(&config).await,
        }
    }

    /// Runs commands on a connection, and forgets it where it broke. The values of some of them may be errors.
    pub(super) async fn run(&self, live: &mut Live, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let answer = live.connection.send_packed_commands(commands, 0, commands.len()).await;
        // A master that became a replica stays connected; sentinels know the new one.
        let demoted = |value: &Value| matches!(value, Value::ServerError(e) if e.code() == "READONLY");
        if answer.as_ref().map_or(true, |values| values.iter().any(demoted)) {
            let mut slot = self.live.lock().await;
            if slot.as_ref().is_some_and(|held| Arc::ptr_eq(&held.server, &live.server)) {
                *slot = None;
            }
        }
        answer
    }

    /// Runs commands: those that change nothing again, on a new connection, where the old one turns out to be broken.
    pub(super) async fn each(&self, commands: &Pipeline, effect: Effect) -> Result<Vec<Value>, RedisError> {
        let first = self.run(&mut self.live().await?, commands).await;
        match first {
            Err(error) if effect == Effect::None && error.is_connection_dropped() => {
                self.run(&mut self.live().await?, commands).await
            }
            other => other,
        }
    }

    /// One command that changes nothing.
    pub(super) async fn ask_one(&self, command: Cmd) -> Result<Value, RedisError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let mut values = self.each(&pipeline, Effect::None).await?;
        values.pop().unwrap_or_default().extract_error()
    }
}

impl Server {
    fn parse(info: &str) -> Self {
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
        };
        let mut version = field("redis_version").split('.').map(|part| part.parse().unwrap_or(0));
        Self {
            run: field("run_id").into(),
            version: (version.next().unwrap_or(0), version.next().unwrap_or(0)),
            is_cluster: field("redis_mode") == "cluster",
        }
    }
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_it_is() {
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:abc\r\n";
        let server = Server::parse(info);
        assert_eq!((server.run.as_str(), server.version, server.is_cluster), ("abc", (7, 0), false));
    }
}
