//! The normative statements of both standards, and the written answers about those that no case shows.

use std::collections::BTreeMap;

use crate::wire::Version;

/// Whom a statement binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binds {
    /// The server alone.
    Server,
    /// The client alone: listed, nothing to show for a server.
    Client,
    /// Client and server.
    Both,
}

/// One normative statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its number, `3.1.2-22` for [MQTT-3.1.2-22].
    pub id: &'static str,
    /// Whom it binds.
    pub binds: Binds,
    /// What it demands, in our words.
    pub demands: &'static str,
}

/// The statements of a version, in the order of its Appendix B.
pub fn all(version: Version) -> Vec<Statement> {
    let text = match version {
        Version::V5 => include_str!("../statements/mqtt5.txt"),
        Version::V311 => include_str!("../statements/mqtt311.txt"),
    };
    rows::<3>(text)
        .map(|[id, binds, demands]| {
            let binds = match binds {
                "server" => Binds::Server,
                "client" => Binds::Client,
                "both" => Binds::Both,
                other => panic!("{id} binds {other:?}"),
            };
            Statement { id, binds, demands }
        })
        .collect()
}

/// Why a statement has no case, by version and id.
pub fn reasons() -> BTreeMap<(Version, &'static str), &'static str> {
    rows::<3>(include_str!("../statements/reasons.txt"))
        .map(|[version, id, reason]| ((version_named(version), id), reason))
        .collect()
}

/// A known deviation of the server that the cases are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// The case.
    pub case: &'static str,
    /// Who is right.
    pub right: &'static str,
    /// What happens and why that is right or wrong.
    pub why: &'static str,
}

/// What is known about cases that Mosquitto does not pass.
pub fn differences() -> Vec<Difference> {
    rows::<3>(include_str!("../statements/differences.txt"))
        .map(|[case, right, why]| Difference { case, right, why })
        .collect()
}

fn version_named(name: &str) -> Version {
    match name {
        "5.0" => Version::V5,
        "3.1.1" => Version::V311,
        other => panic!("{other:?} is no version"),
    }
}

/// Lines of `N` fields between bars; `#` begins a comment line.
fn rows<const N: usize>(text: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.splitn(N, " | ").map(str::trim);
            std::array::from_fn(|_| {
                fields
                    .next()
                    .unwrap_or_else(|| panic!("{N} fields between bars in {line:?}"))
            })
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cases;

    const VERSIONS: [Version; 2] = [Version::V5, Version::V311];

    /// The numbers of statements per chapter of Appendix B of the two standards.
    #[test]
    fn the_lists_are_complete() {
        let chapters = |version, chapter: &str| {
            all(version)
                .iter()
                .filter(|statement| statement.id.starts_with(chapter))
                .count()
        };
        for (chapter, count) in [("1.", 5), ("2.", 7), ("3.", 175), ("4.", 60), ("6.", 4)] {
            assert_eq!(chapters(Version::V5, chapter), count, "chapter {chapter}");
        }
        assert_eq!(all(Version::V5).len(), 251);
        for (chapter, count) in [
            ("1.", 3),
            ("2.", 9),
            ("3.", 95),
            ("4.", 26),
            ("6.", 4),
            ("7.", 4),
        ] {
            assert_eq!(chapters(Version::V311, chapter), count, "chapter {chapter}");
        }
        assert_eq!(all(Version::V311).len(), 141);
    }

    #[test]
    fn no_statement_is_listed_twice() {
        for version in VERSIONS {
            let ids: BTreeSet<_> = all(version).iter().map(|statement| statement.id).collect();
            assert_eq!(ids.len(), all(version).len());
        }
    }

    #[test]
    fn every_statement_that_binds_a_server_has_a_case_or_a_reason() {
        let reasons = reasons();
        for version in VERSIONS {
            let shown: BTreeSet<_> = cases::all().flat_map(|case| case.shows(version)).collect();
            for statement in all(version) {
                let told = reasons.contains_key(&(version, statement.id));
                let open =
                    statement.binds != Binds::Client && !shown.contains(statement.id) && !told;
                assert!(
                    !open,
                    "MQTT {} [{}] has neither case nor reason",
                    version.name(),
                    statement.id
                );
                assert!(
                    !(told && shown.contains(statement.id)),
                    "[{}] has a case and a reason",
                    statement.id
                );
            }
        }
    }

    #[test]
    fn no_case_and_no_reason_is_about_an_unknown_statement() {
        for version in VERSIONS {
            let known: BTreeSet<_> = all(version).iter().map(|statement| statement.id).collect();
            for case in cases::all() {
                for id in case.shows(version) {
                    assert!(
                        known.contains(id),
                        "{} shows [{id}], which MQTT {} has not",
                        case.name,
                        version.name()
                    );
                }
            }
            for (_, id) in reasons().keys().filter(|(of, _)| *of == version) {
                assert!(
                    known.contains(id),
                    "a reason for [{id}], which MQTT {} has not",
                    version.name()
                );
            }
        }
    }

    #[test]
    fn case_names_are_unique_and_differences_name_a_case() {
        let names: Vec<_> = cases::all().map(|case| case.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for difference in differences() {
            assert!(
                names.contains(&difference.case),
                "{} is no case",
                difference.case
            );
        }
    }
}
