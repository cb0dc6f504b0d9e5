//! Answers about the connection and the node.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::keyspace::AllKeys;
use super::session::Session;
use super::{Connection, TIMEOUT, cluster, commands, info};
use crate::command::{Command, Reply, ShardStats};
use crate::protocol::redis::{ClientReply, Hello, Refusal, System};
use crate::protocol::resp::{Encoder, Proto};
use crate::service::{Batch, Service};
use crate::slots::Slot;

impl<S: Service, M, IO: AsyncRead + AsyncWrite + Unpin> Connection<S, M, IO> {
    pub(super) async fn system(&mut self, asked: System) {
        match asked {
            System::Ping(None) => self.reply(|encoder| encoder.simple("PONG")),
            System::Ping(Some(message)) | System::Echo(message) => self.reply(|encoder| encoder.bulk(&message)),
            System::Ok => self.ok(),
            System::SelectOther if self.is_member() => {
                self.refuse(&Refusal::err("SELECT is not allowed in cluster mode"));
            }
            System::SelectOther => self.refuse(&Refusal::err("DB index is out of range")),
            System::Help(syntax) => self.reply(|encoder| commands::help(syntax, encoder)),
            System::Integer(number) => self.reply(|encoder| encoder.integer(number)),
            System::EmptyList => self.reply(|encoder| encoder.array(0)),
            System::Text(text) => self.reply(|encoder| encoder.bulk(text.as_bytes())),
            System::Quit => {
                self.ok();
                self.session.is_over = true;
            }
            System::Reset => {
                self.session = Session::new(self.door.access.is_open());
                self.client.client.names.lock().name = Bytes::new();
                self.reply(|encoder| encoder.simple("RESET"));
            }
            System::Auth { user, password } => match self.authenticate(user.as_deref(), &password) {
                Ok(()) => self.ok(),
                Err(refusal) => self.refuse(&refusal),
            },
            System::Hello(hello) => self.hello(hello),
            System::Time => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.reply(|encoder| {
                    encoder.array(2);
                    encoder.bulk(now.as_secs().to_string().as_bytes());
                    encoder.bulk(now.subsec_micros().to_string().as_bytes());
                });
            }
            System::Role => self.reply(|encoder| {
                encoder.array(3);
                encoder.bulk(b"master");
                encoder.integer(0);
                encoder.array(0);
            }),
            System::Info(sections) => self.info(&sections).await,
            System::ConfigGet(patterns) => self.config(&patterns).await,
            System::ClientId => {
                let id = i64::try_from(self.client.client.id).unwrap_or(i64::MAX);
                self.reply(|encoder| encoder.integer(id));
            }
            System::ClientInfo => {
                let line = self.client.client.line(self.session.proto);
                self.reply(|encoder| encoder.verbatim(&format!("{line}\n")));
            }
            System::ClientList => {
                let clients = self.door.redis.clients.all();
                let lines: String = clients.iter().map(|client| client.line(self.session.proto) + "\n").collect();
                self.reply(|encoder| encoder.verbatim(&lines));
            }
            System::ClientGetName => {
                let name = self.client.client.names.lock().name.clone();
                self.reply(|encoder| if name.is_empty() { encoder.null() } else { encoder.bulk(&name) });
            }
            System::ClientSetName(name) => {
                self.client.client.names.lock().name = name;
                self.ok();
            }
            System::ClientSetInfo { is_version, value } => {
                let mut names = self.client.client.names.lock();
                *(if is_version { &mut names.library_version } else { &mut names.library }) = value;
                drop(names);
                self.ok();
            }
            System::ClientReply(reply) => match reply {
                ClientReply::On => {
                    self.session.reply = ClientReply::On;
                    self.ok();
                }
                ClientReply::Skip if self.session.reply == ClientReply::Off => {}
                ClientReply::Off | ClientReply::Skip => self.session.reply = reply,
            },
            System::CommandCount => self.reply(commands::count),
            System::CommandList => self.reply(commands::list),
            System::CommandDocs(names) => self.reply(|encoder| commands::docs(&names, encoder)),
            System::CommandInfo(names) => self.reply(|encoder| commands::info(&names, encoder)),
            System::CommandGetKeys(words) => self.reply(|encoder| commands::keys(&words, encoder)),
            System::ClusterInfo => self.cluster(cluster::info),
            System::ClusterMyId => self.cluster(cluster::my_id),
            System::ClusterNodes => self.cluster(cluster::nodes),
            System::ClusterShards => self.cluster(cluster::shards),
            System::ClusterSlots => self.cluster(cluster::slots),
            System::ClusterKeySlot(key) => self.reply(|encoder| encoder.integer(Slot::of(&key).get().into())),
            System::ClusterCountKeysInSlot(slot) => self.keys_in_slot(slot, None).await,
            System::ClusterGetKeysInSlot(slot, count) => self.keys_in_slot(slot, Some(count)).await,
        }
    }

    fn ok(&mut self) {
        self.reply(|encoder| encoder.simple("OK"));
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.reply(|encoder| encoder.error(&refusal.0));
    }

    fn cluster(&mut self, write: fn(&crate::cluster::MapView, &mut Encoder<'_>)) {
        let map = self.door.topology.map();
        self.reply(|encoder| write(&map, encoder));
    }

    fn authenticate(&mut self, user: Option<&[u8]>, password: &[u8]) -> Result<(), Refusal> {
        if self.door.access.is_open() && user.is_none() {
            let reason = "AUTH <password> called without any password configured for the default user. Are you sure your \
                          configuration is correct?";
            return Err(Refusal::err(reason));
        }
        if !self.door.access.admits(user, password) {
            self.door.access.note_refused(self.client.client.peer, "resp");
            return Err(Refusal("WRONGPASS invalid username-password pair or user is disabled.".to_owned()));
        }
        self.session.is_authenticated = true;
        Ok(())
    }

    fn hello(&mut self, hello: Hello) {
        if let Some((user, password)) = hello.auth
            && let Err(refusal) = self.authenticate(Some(&user), &password)
        {
            return self.refuse(&refusal);
        }
        if !self.session.is_authenticated {
            let reason = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                          <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                          the same time";
            return self.refuse(&Refusal(reason.to_owned()));
        }
        if let Some(name) = hello.name {
            self.client.client.names.lock().name = name;
        }
        match hello.version {
            Some(3) => self.session.proto = Proto::Resp3,
            Some(_) => self.session.proto = Proto::Resp2,
            None => {}
        }
        let (id, is_member) = (self.client.client.id, self.is_member());
        let proto = if self.session.proto == Proto::Resp3 { 3 } else { 2 };
        self.reply(|encoder| {
            encoder.map(7);
            let text = |name: &str, encoder: &mut Encoder<'_>, value: &str| {
                encoder.bulk(name.as_bytes());
                encoder.bulk(value.as_bytes());
            };
            text("server", encoder, "redis");
            text("version", encoder, info::REDIS_VERSION);
            encoder.bulk(b"proto");
            encoder.integer(proto);
            encoder.bulk(b"id");
            encoder.integer(i64::try_from(id).unwrap_or(i64::MAX));
            text("mode", encoder, if is_member { "cluster" } else { "standalone" });
            text("role", encoder, "master");
            encoder.bulk(b"modules");
            encoder.array(0);
        });
    }

    /// The figures of all shards behind this door, and an error for each that can't be asked.
    async fn stats(&self) -> Vec<ShardStats> {
        let batch = Batch { commands: vec![Command::Stats], epoch: None, timeout: TIMEOUT };
        match self.door.service.execute(batch).await.pop() {
            Some(Ok(Reply::Stats(stats))) => stats,
            Some(Ok(_) | Err(_)) | None => Vec::new(),
        }
    }

    async fn info(&mut self, sections: &[Bytes]) {
        let stats = self.stats().await;
        let node = info::Figures {
            stats: &stats,
            clients: self.door.redis.clients.len(),
            clients_max: self.door.options.connections_max,
            connections: self.door.redis.clients.count(),
            uptime: self.door.redis.started.elapsed(),
            run_id: self.door.redis.run_id,
            port: self.door.options.port,
            is_member: self.is_member(),
        };
        let text = node.text(sections);
        self.reply(|encoder| encoder.verbatim(&text));
    }

    async fn config(&mut self, patterns: &[Bytes]) {
        let settings = info::settings(&self.stats().await, self.door.options.port);
        let is_asked = |name: &str| {
            patterns
                .iter()
                .any(|pattern| crate::protocol::redis::glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
        };
        let found: Vec<_> = settings.into_iter().filter(|(name, _)| is_asked(name)).collect();
        self.reply(|encoder| {
            encoder.map(found.len());
            for (name, value) in &found {
                encoder.bulk(name.as_bytes());
                encoder.bulk(value.as_bytes());
            }
        });
    }

    async fn keys_in_slot(&mut self, slot: Slot, count: Option<usize>) {
        let door = Arc::clone(&self.door);
        let keys = AllKeys::of(&door);
        let answered = match count {
            Some(count) => keys.of_slot(slot, count).await.map(|keys| {
                self.reply(|encoder| {
                    encoder.array(keys.len());
                    keys.iter().for_each(|key| encoder.bulk(key.as_bytes()));
                });
            }),
            None => keys.count_of_slot(slot).await.map(|count| self.reply(|encoder| encoder.integer(count as i64))),
        };
        if let Err(error) = answered {
            let words = self.words(&error, None);
            self.refuse(&Refusal(words));
        }
    }
}
