//! Any text is a configuration or is refused with words, without a panic; what is accepted comes back equal from its print.
//!
//! The input is text: what stands before the first NUL is the file, and each part after it is a flag, `section.key=value`.

#![no_main]

use gateway::config::{Config, FlagValue, Sources};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut parts = text.split('\0');
    let file = parts
        .next()
        .map(|file| ("node.toml".to_owned(), file.to_owned()));
    let flag = |(key, value): (&str, &str)| FlagValue {
        flag: "--set".into(),
        key: key.into(),
        value: value.into(),
    };
    let flags = parts
        .filter_map(|part| part.split_once('='))
        .map(flag)
        .collect();
    match Config::load(&Sources {
        file,
        environment: Vec::new(),
        flags,
    }) {
        Ok(config) => {
            let _ = (config.to_limits(), config.root_depths(), config.to_json());
            let printed = Some(("printed.toml".to_owned(), config.to_toml()));
            let again = Config::load(&Sources {
                file: printed,
                ..Sources::default()
            });
            assert_eq!(again.expect("what is printed is valid"), config);
        }
        Err(errors) => assert!(!errors.0.is_empty() && !errors.to_string().is_empty()),
    }
});
