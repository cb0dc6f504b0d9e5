//! What a connection keeps: its protocol, its name, whether it wants replies.

use crate::wire::{Wire, request};
use crate::world::Ours;

#[test]
fn replies_are_held_back_as_the_client_says() {
    let ours = Ours::start(1, 25);
    for port in [ours.primary(), ours.secondary(0)] {
        let mut wire = Wire::connect(port);
        let silent = [
            "CLIENT REPLY OFF",
            "SET a 1",
            "NOSUCH",
            "GET a",
            "CLIENT REPLY SKIP",
            "PING",
            "SCAN 0",
            "GET a",
            "HELLO 2",
            "CLIENT REPLY OFF",
            "INCR a",
        ];
        for line in silent {
            wire.send(&request(&line.split(' ').collect::<Vec<_>>()));
        }
        assert_eq!(wire.line("CLIENT REPLY ON"), "+OK");
        assert_eq!(wire.line("GET a"), "$1\\r\\n2");
        // The next one only, whatever it is, and also within a pipeline.
        for skipped in ["INCR a", "NOSUCH", "PING", "MGET a b", "DBSIZE", "KEYS *", "CLIENT ID"] {
            let lines = ["GET a", "CLIENT REPLY SKIP", skipped, "ECHO next"];
            wire.send(
                &lines.iter().flat_map(|line| request(&line.split(' ').collect::<Vec<_>>())).collect::<Vec<u8>>(),
            );
            assert!(wire.reply().starts_with(b"$1\r\n"), "before {skipped}");
            assert_eq!(wire.reply(), b"$4\r\nnext\r\n", "after {skipped}");
        }
        wire.send(&request(&["CLIENT", "REPLY", "SKIP"]));
        wire.send(&request(&["CLIENT", "REPLY", "SKIP"]));
        wire.send(&request(&["PING"]));
        assert_eq!(wire.line("ECHO a"), "$1\\r\\na");
        wire.send(&request(&["CLIENT", "REPLY", "OFF"]));
        assert_eq!(wire.line("RESET"), "+RESET");
        assert_eq!(wire.line("PING"), "+PONG");
    }
}

#[test]
fn hello_chooses_the_protocol_and_reset_takes_it_back() {
    let ours = Ours::start(1, 25);
    for (port, mode) in [(ours.primary(), "standalone"), (ours.secondary(0), "cluster")] {
        let mut wire = Wire::connect(port);
        for (version, map) in [("2", "*14"), ("3", "%7"), ("2", "*14")] {
            let told = wire.line(&format!("HELLO {version}"));
            assert!(told.starts_with(&format!(r"{map}\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n")), "{told}");
            assert!(told.contains(&format!(r"$5\r\nproto\r\n:{version}\r\n$2\r\nid\r\n:")), "{told}");
            assert!(
                told.contains(&format!(r"\r\n{mode}\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0")),
                "{told}"
            );
        }
        assert_eq!(wire.line("GET missing"), "$-1");
        assert!(wire.line("HELLO 3 AUTH default any SETNAME bob").starts_with('%'));
        assert_eq!(wire.line("CLIENT GETNAME"), r"$3\r\nbob");
        assert_eq!(wire.line("GET missing"), "_");
        assert!(wire.line("HELLO").starts_with('%'));
        assert_eq!(wire.line("HELLO 4"), "-NOPROTO unsupported protocol version");
        assert_eq!(
            wire.line("HELLO 3 AUTH nobody any"),
            "-WRONGPASS invalid username-password pair or user is disabled."
        );
        assert_eq!(wire.line("GET missing"), "_");
        assert_eq!(wire.line("RESET"), "+RESET");
        assert_eq!(wire.line("GET missing"), "$-1");
        assert_eq!(wire.line("CLIENT GETNAME"), "$-1");
    }
}

#[test]
fn quit_is_answered_and_ends_the_connection_although_more_was_sent() {
    let ours = Ours::start(1, 25);
    for _ in 0..20 {
        let mut wire = Wire::connect(ours.primary());
        let pipeline =
            [request(&["SET", "a", "1"]), request(&["QUIT"]), request(&["SET", "a", "2"]).repeat(10_000)].concat();
        wire.send(&pipeline);
        assert_eq!(wire.rest().escape_ascii().to_string(), r"+OK\r\n+OK\r\n");
        assert_eq!(Wire::connect(ours.primary()).line("GET a"), r"$1\r\n1");
    }
}

#[test]
fn subcommands_are_told_and_unknown_ones_are_refused() {
    let ours = Ours::start(1, 25);
    let mut wire = Wire::connect(ours.primary());
    for command in ["CLIENT", "CLUSTER", "COMMAND", "CONFIG", "LATENCY", "MEMORY", "MODULE", "OBJECT", "SLOWLOG", "ACL"]
    {
        assert_eq!(
            wire.line(&format!("{command} NoSuch x")),
            format!(r"-ERR unknown subcommand \'NoSuch\'. Try {command} HELP.")
        );
        assert!(wire.line(&format!("{command} help")).starts_with('*'), "{command}");
        let lower = command.to_lowercase();
        let arity = if command == "COMMAND" {
            "*".to_owned()
        } else {
            format!(r"-ERR wrong number of arguments for \'{lower}\' command")
        };
        assert!(wire.line(command).starts_with(&arity), "{command}");
    }
    for (line, told) in [
        ("CLIENT SETNAME", r"-ERR wrong number of arguments for \'client|setname\' command"),
        ("MULTI", "-ERR MULTI is not supported: each command is atomic for its keys; there are no transactions yet"),
        ("SUBSCRIBE a", "-ERR SUBSCRIBE is not supported: there are no channels"),
        ("EVAL x 0", "-ERR EVAL is not supported: there is no scripting"),
        ("CONFIG SET a b", "-ERR CONFIG SET is not supported: a node is configured by its command line"),
    ] {
        assert_eq!(wire.line(line), told);
    }
}

#[test]
fn tools_find_the_figures_that_they_chart() {
    let ours = Ours::start(2, 25);
    for port in [ours.primary(), ours.secondary(0)] {
        let mut wire = Wire::connect(port);
        let info = String::from_utf8(wire.ask(&["INFO", "ALL"])).unwrap();
        for field in [
            "redis_version",
            "redis_mode",
            "os",
            "process_id",
            "run_id",
            "tcp_port",
            "uptime_in_seconds",
            "uptime_in_days",
            "connected_clients",
            "maxclients",
            "blocked_clients",
            "used_memory",
            "used_memory_human",
            "used_memory_rss",
            "maxmemory",
            "maxmemory_policy",
            "mem_fragmentation_ratio",
            "loading",
            "rdb_changes_since_last_save",
            "aof_enabled",
            "total_connections_received",
            "total_commands_processed",
            "keyspace_hits",
            "keyspace_misses",
            "evicted_keys",
            "expired_keys",
            "role",
            "connected_slaves",
            "master_repl_offset",
            "used_cpu_sys",
            "used_cpu_user",
            "cluster_enabled",
        ] {
            let line = info.lines().find(|line| line.split(':').next() == Some(field));
            assert!(
                line.is_some_and(|line| line.split_once(':').is_some_and(|(_, value)| !value.is_empty())),
                "{field} in {info}"
            );
        }
        for line in [
            "CONFIG GET *",
            "CLIENT LIST",
            "SLOWLOG GET 128",
            "LATENCY LATEST",
            "MODULE LIST",
            "COMMAND DOCS",
            "COMMAND",
            "CLIENT INFO",
        ] {
            assert!(!wire.line(line).starts_with('-'), "{line}");
        }
        assert!(wire.line("INFO keyspace").contains("# Keyspace"));
        assert!(!wire.line("INFO server").contains("# Memory"));
    }
}
