//! A client of a node, as commands and plain answers.

use std::time::Duration;

use overspill::command::{Command, Condition, Found, Reply, ShardStats};
use overspill::record::{Key, Value};
use overspill::rpc;
use overspill::service::{Batch, Error, Replies, Service};

#[derive(Clone)]
pub struct Client(rpc::Client);

pub fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

pub fn put(name: &str, value: &str) -> Command {
    let value = Value::new(value.to_owned()).unwrap();
    Command::Put { key: key(name), value, ttl: None, condition: Condition::Always }
}

pub fn get(name: &str) -> Command {
    Command::Get { key: key(name) }
}

pub fn text(found: &Found) -> String {
    String::from_utf8(found.value.as_bytes().to_vec()).unwrap()
}

impl Client {
    pub fn of(port: u16) -> Self {
        Self(rpc::Client::spawn(format!("127.0.0.1:{port}"), rpc::Options::default()))
    }

    pub async fn execute(&self, commands: Vec<Command>) -> Replies {
        self.0.execute(Batch { commands, epoch: None, timeout: Duration::from_secs(10) }).await
    }

    pub async fn one(&self, command: Command) -> Result<Reply, Error> {
        self.execute(vec![command]).await.pop().unwrap()
    }

    pub async fn put(&self, name: &str, value: &str) -> Result<Reply, Error> {
        self.one(put(name, value)).await
    }

    pub async fn get(&self, name: &str) -> Result<Option<String>, Error> {
        match self.one(get(name)).await? {
            Reply::Found(found) => Ok(found.as_ref().map(text)),
            other => panic!("GET was answered {other:?}"),
        }
    }

    pub async fn delete(&self, name: &str) -> Result<bool, Error> {
        match self.one(Command::Delete { key: key(name) }).await? {
            Reply::Done(existed) => Ok(existed),
            other => panic!("DEL was answered {other:?}"),
        }
    }

    pub async fn count(&self) -> Result<u64, Error> {
        match self.one(Command::Count).await? {
            Reply::Count(count) => Ok(count),
            other => panic!("COUNT was answered {other:?}"),
        }
    }

    pub async fn stats(&self) -> Vec<ShardStats> {
        match self.one(Command::Stats).await {
            Ok(Reply::Stats(stats)) => stats,
            other => panic!("STATS was answered {other:?}"),
        }
    }

    /// Waits until every slot is served.
    pub async fn until_served(&self) {
        super::eventually("every slot is served", async || {
            let probes = (0..200).map(|i| get(&format!("probe:{i}"))).collect();
            self.execute(probes).await.iter().all(Result::is_ok).then_some(())
        })
        .await;
    }
}
