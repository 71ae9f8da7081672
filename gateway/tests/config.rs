//! The configuration: what is refused and with which words, where values come from, and that nothing is lost on the way
//! out and back in.

use gateway::config::{Config, ConfigErrors, FlagValue, KEYS, Origin, Sources, example};
use proptest::prelude::*;

fn from_file(text: &str) -> Result<Config, ConfigErrors> {
    let file = Some(("node.toml".to_owned(), text.to_owned()));
    Config::load(&Sources {
        file,
        ..Sources::default()
    })
}

fn from_environment(name: &str, value: &str) -> Result<Config, ConfigErrors> {
    let environment = vec![(name.to_owned(), value.to_owned())];
    Config::load(&Sources {
        environment,
        ..Sources::default()
    })
}

fn set(key: &str, value: &str) -> FlagValue {
    FlagValue {
        flag: "--set".into(),
        key: key.into(),
        value: value.into(),
    }
}

fn refusal(text: &str) -> String {
    from_file(text).expect_err(text).to_string()
}

/// Files that are refused, and all that is said about each.
const REFUSED: &[(&str, &str)] = &[
    (
        "[mqtt]\nkeep_alive_max = \"5 parsecs\"",
        r#"node.toml:2: mqtt.keep_alive_max = "5 parsecs": not a duration; write e.g. "250ms", "30s", "5m" or "7d""#,
    ),
    (
        "[engine]\nkind = \"redis\"\nurls = [\"redis://10.0.0.1:6379\"]\n[cluster]\nname = \"a\"",
        "default: cluster.key_file = \"\": a cluster without a key; name a file with the output of `openssl rand -base64 32`, the same on all nodes",
    ),
    (
        "[cluster]\nname = \"a\"\nkey_file = \"k\"",
        "node.toml:2: cluster.name = \"a\": the nodes of a cluster share an engine, and the embedded one is this node's alone; set engine.kind = \
         \"redis\" and engine.urls, or take cluster.name out",
    ),
    (
        "[cluster]\nseeds = [\"10.0.0.1\"]",
        "node.toml:2: cluster.seeds = [\"10.0.0.1:7946\"]: without cluster.name the node is alone; name the cluster, the same on all nodes, or take \
         this key out",
    ),
    (
        "[cluster]\nseeds = [\"a b\"]",
        "node.toml:2: cluster.seeds = [\"a b\"]: \"a b\" is not a host with a port; write e.g. \"roadstead-headless.mqtt.svc:7946\" or \"10.1.2.3:7946\"",
    ),
    (
        "[cluster]\nuid = \"a1\"",
        "node.toml:2: cluster.uid = \"a1\": not a uid; write 16 hexadecimal digits other than zeros, e.g. \"00000000000000a1\", or \"\" for one that \
         follows from host and address",
    ),
    (
        "[node]\ncores = 2\n[cluster]\nname = \"a\"\nkey_file = \"k\"\ngossip_address = \"0.0.0.0:8000\"\nbus_address = \"0.0.0.0:7999\"\n\
         [engine]\nkind = \"redis\"\nurls = [\"redis://10.0.0.1:6379\"]",
        "node.toml:6: cluster.gossip_address = \"0.0.0.0:8000\": the bus takes the ports 7999 to 8000, and gossip takes its port over TCP as well; \
         choose a port outside of these",
    ),
    (
        "[mqtt]\nconnect_timeout = 5",
        r#"node.toml:2: mqtt.connect_timeout = 5: not a duration; write e.g. "250ms", "30s", "5m" or "7d""#,
    ),
    (
        "[mqtt]\npacket_bytes_max = 65536",
        r#"node.toml:2: mqtt.packet_bytes_max = 65536: not a size; write e.g. "64 KiB", "1 MiB" or "512 MB""#,
    ),
    (
        "[mqtt]\npacket_bytes_max = \"99999999999999 GiB\"",
        r#"node.toml:2: mqtt.packet_bytes_max = "99999999999999 GiB": not a size; write e.g. "64 KiB", "1 MiB" or "512 MB""#,
    ),
    (
        "[mqtt]\npacket_bytes_max = \"1 GiB\"",
        r#"node.toml:2: mqtt.packet_bytes_max = "1 GiB": out of range; write a value from "1 KiB" to "256 MiB""#,
    ),
    (
        "[mqtt]\ninflight_max = 0",
        "node.toml:2: mqtt.inflight_max = 0: out of range; write a value from 1 to 65535",
    ),
    (
        "[mqtt]\ninflight_max = 70000",
        "node.toml:2: mqtt.inflight_max = 70000: out of range; write a value from 1 to 65535",
    ),
    (
        "[mqtt]\ninflight_max = \"many\"",
        r#"node.toml:2: mqtt.inflight_max = "many": not a whole number; write digits without quotes, e.g. 100"#,
    ),
    (
        "[mqtt]\ninflight = 10",
        "node.toml:2: unknown key mqtt.inflight; did you mean mqtt.inflight_max?",
    ),
    (
        "[queues]\ninflight_max = 10",
        "node.toml:2: unknown key queues.inflight_max; did you mean mqtt.inflight_max?",
    ),
    (
        "[node]\nfrobnicate = 1",
        "node.toml:2: unknown key node.frobnicate; `roadstead config print` lists all keys",
    ),
    (
        "\n[mqqt]\ninflight_max = 10",
        "node.toml:2: unknown key [mqqt]; did you mean [mqtt]?",
    ),
    (
        "cores = 2",
        "node.toml:1: unknown key cores; did you mean node.cores?",
    ),
    (
        "[node\ncores = 2",
        "node.toml:1: not valid TOML: unclosed table, expected `]`",
    ),
    (
        "[node]\ncores = 2\ncores = 3",
        "node.toml:3: not valid TOML: duplicate key",
    ),
    (
        "[node]\ncores = 0",
        r#"node.toml:2: node.cores = 0: not a number of cores; write a number from 1 to 255, or "all""#,
    ),
    (
        "[node]\npin_cores = \"yes\"",
        r#"node.toml:2: node.pin_cores = "yes": not a yes or no; write true or false"#,
    ),
    (
        "[node]\nname = \"a b\"",
        r#"node.toml:2: node.name = "a b": not a name; write 1 to 64 letters, digits, "-", "_" and ".""#,
    ),
    (
        "[io]\nbackend = \"kqueue\"",
        r#"node.toml:2: io.backend = "kqueue": not one of the choices; write "auto" or "io_uring" or "epoll""#,
    ),
    (
        "[io]\nreceive_buffers = 1000",
        "node.toml:2: io.receive_buffers = 1000: not a power of two; write 512 or 1024",
    ),
    (
        "[listeners]\ntcp = [\"localhost:1883\"]",
        r#"node.toml:2: listeners.tcp = ["localhost:1883"]: "localhost:1883" is not an IP address and port (names are not looked up); write e.g. "127.0.0.1:1883" or "[::1]:1883""#,
    ),
    (
        "[listeners]\ntcp = 1883",
        r#"node.toml:2: listeners.tcp = 1883: not a list of addresses; write e.g. ["127.0.0.1:1883", "[::1]:1883"]"#,
    ),
    (
        "[listeners]\nwebsocket_origins = [\"https://a.example/\"]",
        r#"node.toml:2: listeners.websocket_origins = ["https://a.example/"]: "https://a.example/" is no origin; write e.g. "https://app.example.com", with the port unless it is 443 or 80, and nothing behind it"#,
    ),
    (
        // What is refused for being shown is not shown.
        "[http]\nurl = \"https://user:hunter2@a.example/\"",
        r#"node.toml:2: http.url = "https://…@a.example/": user and password in an address are shown wherever it is; take them out, and give a header with the secret in http.headers_file"#,
    ),
    (
        "[engine]\nkind = \"redis\"\nurls = [\"redis://user:hunter2@a:6379\"]",
        r#"node.toml:3: engine.urls = ["redis://…@a:6379"]: user and password in an address are shown wherever it is; take them out, name the user in engine.user, and the file with the password in engine.password_file"#,
    ),
    (
        "[engine]\nurls = [\"redis://a:6379\"]",
        r#"node.toml:2: engine.urls = ["redis://a:6379"]: engine.kind is "embedded", which does not look at it; set engine.kind = "redis", or take this out"#,
    ),
    (
        "[engine]\nkind = \"redis\"",
        r#"default: engine.urls = []: engine.kind = "redis" and no server to go to; name its address, e.g. ["redis://valkey.example.com:6379"], or set engine.kind = "embedded""#,
    ),
    (
        "[engine]\nkind = \"redis\"\nurls = [\"valkey:6379\"]",
        r#"node.toml:3: engine.urls = ["valkey:6379"]: not the address of a Valkey or Redis; write e.g. "redis://valkey.example.com:6379", or "rediss://…" for TLS"#,
    ),
    (
        "[engine]\nkind = \"redis\"\nurls = [\"redis://a:6379\"]\ndurability = \"sync\"",
        r#"node.toml:4: engine.durability = "sync": only engine.kind = "embedded" knows it, and engine.kind is "redis"; write "auto" or "memory" or "aof" or "replica" or "replica-aof""#,
    ),
    (
        "[engine]\ndurability = \"replica\"",
        r#"node.toml:2: engine.durability = "replica": only engine.kind = "redis" knows it, and engine.kind is "embedded"; write "auto" or "sync" or "relaxed""#,
    ),
    (
        "[engine]\nkind = \"redis\"\nurls = [\"redis://a:6379\"]\nuser = \"gateway\"",
        r#"node.toml:4: engine.user = "gateway": a user without a password; name the file with the password in engine.password_file, or take the user out"#,
    ),
    (
        "[engine]\nkind = \"redis\"\nurls = [\"redis://a:6379\"]\nprefix = \"a{b}\"",
        r#"node.toml:4: engine.prefix = "a{b}": not a prefix of keys; write 1 to 32 letters, digits, "-", "_" and ".""#,
    ),
    (
        "[listeners]\nwebsocket_path = \"mqtt\"",
        r#"node.toml:2: listeners.websocket_path = "mqtt": not a path; write e.g. "/mqtt""#,
    ),
    (
        "[listeners]\ntcp = [\"0.0.0.0:1883\"]",
        r#"node.toml:2: listeners.tcp = ["0.0.0.0:1883"]: 0.0.0.0:1883 can be reached from other machines, and access.anonymous = "loopback" lets only clients on this machine in; use a loopback address, name in access.methods how clients prove who they are, or set access.anonymous = "everywhere-without-any-authentication""#,
    ),
    (
        "[listeners]\ntcp = []\nwebsocket = []",
        "node.toml:2: listeners.tcp = []: no listener at all: no client could connect; name an address in listeners.tcp or another listener",
    ),
    (
        "[listeners]\ntls = [\"127.0.0.1:8883\"]",
        "default: tls.certificates = []: a TLS listener without a certificate; name its file, and that of its key in tls.keys",
    ),
    (
        "[tls]\ncertificates = [\"a.crt\", \"b.crt\"]\nkeys = [\"a.key\"]",
        r#"node.toml:3: tls.keys = ["a.key"]: 1 keys for 2 certificates; name one for each of tls.certificates, in the same order"#,
    ),
    (
        "[tls]\nclient_certificates = \"required\"",
        r#"node.toml:2: tls.client_certificates = "required": nobody could be verified; name the files of the authorities in tls.client_authorities, or set "none""#,
    ),
    (
        "[tls]\ncertificates = 1",
        r#"node.toml:2: tls.certificates = 1: not a list of files; write e.g. ["/etc/roadstead/tls.crt"]"#,
    ),
    (
        "[listeners]\nwebsocket = [\"127.0.0.1:1883\"]",
        r#"node.toml:2: listeners.websocket = ["127.0.0.1:1883"]: 127.0.0.1:1883 is used twice; give each listener its own port"#,
    ),
    (
        "[admin]\naddress = \"10.0.0.1:9883\"",
        r#"node.toml:2: admin.address = "10.0.0.1:9883": 10.0.0.1:9883 can be reached from other machines, and the admin interface has no authentication; use a loopback address, or set admin.allow_remote = true"#,
    ),
    (
        "[topics.root_depth_by_prefix]\n\"v1/+\" = 3",
        r##"node.toml:1: topics.root_depth_by_prefix = { "v1/+" = 3 }: "v1/+" is not a topic prefix; write whole levels without wildcards, e.g. "v1/devices""##,
    ),
    (
        "[topics.root_depth_by_prefix]\n\"v1\" = 0",
        r#"node.toml:1: topics.root_depth_by_prefix = { v1 = 0 }: the depth of "v1" is not a number from 1 to 8"#,
    ),
    (
        "[queues]\nsession_bytes_max = \"64 KiB\"",
        r#"node.toml:2: queues.session_bytes_max = "64 KiB": less than one packet of mqtt.packet_bytes_max = "1 MiB", so the largest messages would never fit; raise it or lower mqtt.packet_bytes_max"#,
    ),
];

#[test]
fn every_refusal_names_the_place_the_value_and_what_would_be_right() {
    for (text, message) in REFUSED {
        assert_eq!(refusal(text), *message, "for:\n{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_reported_together() {
    let environment = vec![("ROADSTEAD_NODE_CORE".into(), "1".into())];
    let file = Some((
        "node.toml".into(),
        "[mqtt]\ninflight_max = 0\nconnect_timeout = \"soon\"".into(),
    ));
    let flags = vec![set("log.level", "loud")];
    let errors = Config::load(&Sources {
        file,
        environment,
        flags,
    })
    .expect_err("four mistakes");
    let text = errors.to_string();
    for expected in [
        "env ROADSTEAD_NODE_CORE: unknown key ROADSTEAD_NODE_CORE; did you mean ROADSTEAD_NODE_CORES?",
        "node.toml:2: mqtt.inflight_max = 0: out of range",
        "node.toml:3: mqtt.connect_timeout = \"soon\": not a duration",
        "flag --set: log.level = \"loud\": not one of the choices",
    ] {
        assert!(text.contains(expected), "{expected}\nis not in\n{text}");
    }
    assert_eq!(errors.0.len(), 4);
}

#[test]
fn the_later_source_wins_and_is_named() {
    let file = Some((
        "node.toml".into(),
        "[node]\nname = \"a\"\ncores = 1\n\n[log]\nlevel = \"warn\"".into(),
    ));
    let environment = vec![
        ("ROADSTEAD_NODE_CORES".into(), "2".into()),
        ("ROADSTEAD_LOG_LEVEL".into(), "error".into()),
    ];
    let flags = vec![FlagValue {
        flag: "--cores".into(),
        key: "node.cores".into(),
        value: "3".into(),
    }];
    let config = Config::load(&Sources {
        file,
        environment,
        flags,
    })
    .expect("good");
    assert_eq!(config.core_count(), 3);
    assert_eq!(config.origin("node.cores").to_string(), "flag --cores");
    assert_eq!(
        config.origin("log.level").to_string(),
        "env ROADSTEAD_LOG_LEVEL"
    );
    assert_eq!(config.origin("node.name").to_string(), "node.toml:2");
    assert_eq!(*config.origin("io.backend"), Origin::Default);
    let printed = config.to_toml();
    assert!(printed.contains("cores = 3 # flag --cores\n"), "{printed}");
    assert!(
        printed.contains("level = \"error\" # env ROADSTEAD_LOG_LEVEL\n"),
        "{printed}"
    );
    assert!(
        printed.contains("backend = \"auto\" # default\n"),
        "{printed}"
    );
    assert_eq!(
        config.to_json()["node"]["name"],
        serde_json::json!({ "value": "a", "origin": "node.toml:2" })
    );
}

#[test]
fn variables_hold_bare_text_or_toml() {
    let listen = from_environment("ROADSTEAD_LISTENERS_TCP", "127.0.0.1:1,[::1]:2")
        .expect("a list of addresses");
    assert_eq!(listen.listeners.tcp.len(), 2);
    assert_eq!(
        from_environment("ROADSTEAD_LISTENERS_TCP", "[\"127.0.0.1:1\"]")
            .expect("TOML")
            .listeners
            .tcp
            .len(),
        1
    );
    assert_eq!(
        from_environment("ROADSTEAD_NODE_NAME", "42")
            .expect("a name of digits")
            .node
            .name
            .0,
        "42"
    );
    assert!(
        !from_environment("ROADSTEAD_NODE_PIN_CORES", "false")
            .expect("a bool")
            .node
            .pin_cores
    );
    let depths = from_environment("ROADSTEAD_TOPICS_ROOT_DEPTH_BY_PREFIX", "v1/devices=3,v2=1")
        .expect("a table");
    assert_eq!(depths.topics.root_depth_by_prefix.0["v1/devices"], 3);
    assert_eq!(
        depths.root_depths().root_of_topic("v1/devices/7/up"),
        "v1/devices/7"
    );
    let error = from_environment("ROADSTEAD_MQTT_INFLIGHT_MAX", "0")
        .expect_err("out of range")
        .to_string();
    assert_eq!(
        error,
        r#"env ROADSTEAD_MQTT_INFLIGHT_MAX: mqtt.inflight_max = "0": out of range; write a value from 1 to 65535"#
    );
}

#[test]
fn variables_that_kubernetes_sets_for_services_are_not_ours() {
    for name in [
        "ROADSTEAD_PORT",
        "ROADSTEAD_SERVICE_HOST",
        "ROADSTEAD_SERVICE_PORT_MQTT",
        "ROADSTEAD_MQTT_PORT_1883_TCP_ADDR",
        "ROADSTEAD_MQTT_PORT_1883_TCP",
        "ROADSTEAD_CONFIG",
        "OTHER",
    ] {
        from_environment(name, "tcp://10.0.0.1:1883")
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn exposure_is_allowed_in_so_many_words() {
    let text = "[listeners]\ntcp = [\"0.0.0.0:1883\"]\n[access]\nanonymous = \"everywhere-without-any-authentication\"\n\
                [admin]\naddress = \"0.0.0.0:9883\"\nallow_remote = true";
    from_file(text).expect("all of it is said");
    from_file("[listeners]\ntcp = [\"[::ffff:127.0.0.1]:1883\"]")
        .expect("loopback written as IPv6");
    from_file("[admin]\nmonitoring_address = \"0.0.0.0:9884\"")
        .expect("health and metrics change nothing");
}

#[test]
fn units_mean_what_they_say() {
    let config = from_file(
        "[mqtt]\npacket_bytes_max = \"512 KB\"\nconnect_timeout = \"250ms\"\nkeep_alive_max = \"5m\"\n\
         [sessions]\nexpiry_max = \"7d\"\n[queues]\nsession_bytes_max = \"2MiB\"",
    )
    .expect("good");
    let limits = config.to_limits();
    assert_eq!(limits.packet_bytes_max, 512_000);
    assert_eq!(limits.connect_timeout_ms, 250);
    assert_eq!(limits.keep_alive_s_max, 300);
    assert_eq!(limits.session_expiry_s_max, 7 * 24 * 3600);
    assert_eq!(limits.session_queue_bytes_max, 2 * 1024 * 1024);
}

#[test]
fn the_defaults_load_and_every_default_is_in_its_range() {
    Config::load(&Sources::default()).expect("the defaults are good");
    for key in KEYS {
        (key.check)(&(key.default)()).unwrap_or_else(|error| panic!("{}: {error}", key.path()));
    }
}

#[test]
fn printing_and_loading_gives_the_same_configuration() {
    let text = "[node]\ncores = 3\n[topics.root_depth_by_prefix]\n\"v1/devices\" = 3\n\"a b\\\"c\" = 1\n\
                [admin]\naddress = \"off\"\n[engine]\npath = \"/tmp/a \\\\ b\"";
    let config = from_file(text).expect("good");
    assert_eq!(
        from_file(&config.to_toml()).expect("what is printed is valid"),
        config
    );
    assert_eq!(
        from_file(&Config::default().to_toml()).expect("valid"),
        Config::default()
    );
}

#[test]
fn the_example_changes_nothing_and_names_every_key() {
    let text = example();
    assert_eq!(from_file(&text).expect("valid"), Config::default());
    let enabled: String = text
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.contains(" = ") && !rest.contains(". "))
                .unwrap_or(line)
        })
        .fold(String::new(), |all, line| all + line + "\n");
    let config = from_file(&enabled).expect("the commented values are valid");
    assert_eq!(config, Config::default());
    for key in KEYS {
        assert_ne!(
            *config.origin(&key.path()),
            Origin::Default,
            "{} is not in the example",
            key.path()
        );
    }
}

#[test]
fn the_shipped_example_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/roadstead.example.toml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, example()).expect("the example can be written");
    }
    let shipped = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        shipped == example(),
        "ops/roadstead.example.toml is not current; run with UPDATE_GOLDEN=1"
    );
}

/// Keys and values, good and bad, in any mixture.
fn any_file() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        (0..KEYS.len())
            .prop_map(|index| (KEYS[index].section.to_owned(), KEYS[index].name.to_owned())),
        ("[a-z]{1,8}", "[a-z_]{1,12}"),
    ];
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        "[0-9]{0,20} ?(ms|s|m|h|d|B|KiB|MB|GiB|parsecs)".prop_map(|text| format!("\"{text}\"")),
        "[a-z_]{0,10}".prop_map(|text| format!("\"{text}\"")),
        Just("[\"127.0.0.1:0\"]".to_owned()),
        Just("{ \"a\" = 3 }".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("-1.5e300".to_owned()),
    ];
    prop::collection::vec((key, value), 0..8).prop_map(|lines| {
        lines
            .into_iter()
            .map(|((section, name), value)| format!("{section}.{name} = {value}\n"))
            .collect()
    })
}

proptest! {
    #[test]
    fn arbitrary_text_is_read_or_refused_and_never_panics(text in ".{0,200}") {
        let _ = from_file(&text);
    }

    #[test]
    fn whatever_is_accepted_survives_printing(text in any_file()) {
        if let Ok(config) = from_file(&text) {
            prop_assert_eq!(from_file(&config.to_toml()).expect("what is printed is valid"), config);
        }
    }

    #[test]
    fn arbitrary_variables_are_read_or_refused_and_never_panic(index in 0..KEYS.len(), value in ".{0,40}") {
        let _ = from_environment(&KEYS[index].environment(), &value);
    }

    #[test]
    fn limits_of_whatever_is_accepted_can_be_made(text in any_file()) {
        if let Ok(config) = from_file(&text) {
            let limits = config.to_limits();
            prop_assert!(limits.sessions_max > 0 && limits.retained_messages_max > 0);
        }
    }
}
