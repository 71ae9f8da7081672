//! Rules as they are written → [`Rules`]: TOML from a file, JSON from a token or a call-out.

use std::fmt;
use std::num::NonZeroU32;

use edge_proto::packet::QoS;
use serde::Deserialize;
use toml::Spanned;

use super::pattern::{Pattern, PatternError};
use super::{Names, Rule, RuleId, RuleSource, Rules};

/// A rule as it is written, in a file or in the `acl` claim of a token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRule {
    pub(crate) allow: Option<Vec<String>>,
    pub(crate) deny: Option<Vec<String>>,
    pub(crate) users: Option<Vec<String>>,
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) clients: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) topics: Vec<String>,
    pub(crate) qos_max: Option<u8>,
    pub(crate) retain: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
}

/// How much a source of rules may bring; more is refused. A check looks at the rules in order, so this bounds its time, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseBounds {
    /// Rules in the list.
    pub rules_max: usize,
    /// Topics of all rules together.
    pub topics_max: usize,
    /// Users, groups and clients of all rules together.
    pub names_max: usize,
}

impl ParseBounds {
    /// For the node's own file, kept once.
    pub const FILE: Self = Self {
        rules_max: 1_000,
        topics_max: 10_000,
        names_max: 1_000_000,
    };
    /// For one client's token or call-out, kept for as long as the client is connected.
    pub const CLIENT: Self = Self {
        rules_max: 32,
        topics_max: 64,
        names_max: 32,
    };
}

/// Everything that is wrong with a list of rules, so that one look mends all of it. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesError(pub Vec<RuleError>);

impl fmt::Display for RulesError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RulesError {}

/// One thing that is wrong with a list of rules. The operator's to mend, or the token issuer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The text is not TOML, a key does not exist or a value has the wrong type.
    #[error("line {line}: {detail}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What the parser expected.
        detail: String,
    },
    /// The claim or answer is not a list of rules.
    #[error("not a list of rules: {detail}")]
    Json {
        /// What the parser expected.
        detail: String,
    },
    /// More than fits.
    #[error(
        "{count} {what}, {max} at most; use placeholders (%u, %c, %g) or groups in place of a rule for each user"
    )]
    TooMany {
        /// Rules, topics or names.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A rule is wrong.
    #[error("{rule}: {problem}")]
    Rule {
        /// Which one.
        rule: RuleId,
        /// What is wrong with it.
        problem: RuleProblem,
    },
}

/// What can be wrong with one rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// Neither `allow` nor `deny`.
    #[error(
        "it neither allows nor denies; write allow = [\"publish\", \"subscribe\"] or deny = [\"publish\"]"
    )]
    NoEffect,
    /// Both.
    #[error(
        "it allows and denies; make two rules of it, in the order in which they should be asked"
    )]
    TwoEffects,
    /// Not a word for an action.
    #[error("{0:?} is nothing to allow or deny; write \"publish\" or \"subscribe\"")]
    Action(String),
    /// A list that is there and says nothing.
    #[error(
        "{0} is an empty list, so that the rule fits nothing; fill it, or leave it out if everything is meant"
    )]
    EmptyList(ListKind),
    /// No topics.
    #[error("it has no topics; write topics = [\"#\"] for all")]
    NoTopics,
    /// A bad entry of `topics`.
    #[error("topics: {topic:?}: {error}")]
    Topic {
        /// As it was written.
        topic: String,
        /// What is wrong with it.
        error: PatternError,
    },
    /// An empty name, or `*` before the end of one.
    #[error(
        "{list}: {name:?} fits nobody; write a name, or the beginning of one and * (\"*\" alone: every name)"
    )]
    Name {
        /// In which list.
        list: ListKind,
        /// As it was written.
        name: String,
    },
    /// Not a QoS.
    #[error("qos_max = {0} is not a QoS; write 0, 1 or 2")]
    Qos(u8),
    /// Limits on what is denied anyway.
    #[error(
        "qos_max and retain are limits on what is allowed; take them out of a rule that denies"
    )]
    LimitOnDeny,
}

/// A list of names of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// `allow` or `deny`
    Actions,
    /// `users`
    Users,
    /// `groups`
    Groups,
    /// `clients`
    Clients,
}

impl fmt::Display for ListKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Actions => "allow or deny",
            Self::Users => "users",
            Self::Groups => "groups",
            Self::Clients => "clients",
        })
    }
}

impl Rules {
    /// Reads the rules of a file, whose text is TOML.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn from_toml(text: &str) -> Result<Self, RulesError> {
        let line_of = |offset: usize| {
            let before = &text.as_bytes()[..offset.min(text.len())];
            1 + before.iter().filter(|byte| **byte == b'\n').count()
        };
        let file: RawFile = toml::from_str(text).map_err(|error| {
            RulesError(vec![RuleError::Syntax {
                line: line_of(error.span().map_or(0, |span| span.start)),
                detail: error.message().to_owned(),
            }])
        })?;
        let lines: Vec<_> = file
            .rule
            .iter()
            .map(|rule| line_of(rule.span().start))
            .collect();
        let rules: Vec<_> = file.rule.into_iter().map(Spanned::into_inner).collect();
        let line = |index: usize| u32::try_from(lines[index]).ok().and_then(NonZeroU32::new);
        compile(&rules, RuleSource::File, ParseBounds::FILE, line)
    }

    /// Compiles the rules that came with a client.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn of_client(rules: &[RawRule], source: RuleSource) -> Result<Self, RulesError> {
        compile(rules, source, ParseBounds::CLIENT, |_| None)
    }

    /// Reads rules in JSON, as an `acl` claim or a call-out has them: a list of objects with the keys of the TOML form.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn from_json(value: &serde_json::Value, source: RuleSource) -> Result<Self, RulesError> {
        let rules = Vec::<RawRule>::deserialize(value).map_err(|error| {
            RulesError(vec![RuleError::Json {
                detail: error.to_string(),
            }])
        })?;
        Self::of_client(&rules, source)
    }
}

fn compile(
    raw: &[RawRule],
    source: RuleSource,
    bounds: ParseBounds,
    line: impl Fn(usize) -> Option<NonZeroU32>,
) -> Result<Rules, RulesError> {
    let mut errors = Vec::new();
    let length = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    let names = |rule: &RawRule| length(&rule.users) + length(&rule.groups) + length(&rule.clients);
    let counts = [
        ("rules", raw.len(), bounds.rules_max),
        (
            "topics",
            raw.iter().map(|rule| rule.topics.len()).sum(),
            bounds.topics_max,
        ),
        ("names", raw.iter().map(names).sum(), bounds.names_max),
    ];
    for (what, count, max) in counts {
        if count > max {
            errors.push(RuleError::TooMany { what, count, max });
        }
    }
    if !errors.is_empty() {
        return Err(RulesError(errors));
    }
    let mut rules = Vec::with_capacity(raw.len());
    for (index, rule) in raw.iter().enumerate() {
        let id = RuleId {
            source,
            number: index as u32 + 1,
            line: line(index),
        };
        let mut problems = Vec::new();
        rules.push(compile_rule(rule, id, &mut problems));
        let place = |problem| RuleError::Rule { rule: id, problem };
        errors.extend(problems.into_iter().map(place));
    }
    if errors.is_empty() {
        Ok(Rules {
            rules: rules.into(),
        })
    } else {
        Err(RulesError(errors))
    }
}

/// Compiles one rule; what it returns is of use only when there was no problem.
fn compile_rule(raw: &RawRule, id: RuleId, problems: &mut Vec<RuleProblem>) -> Rule {
    let allows = raw.allow.is_some();
    let actions = match (&raw.allow, &raw.deny) {
        (Some(actions), None) | (None, Some(actions)) => actions.as_slice(),
        (None, None) => {
            problems.push(RuleProblem::NoEffect);
            &[]
        }
        (Some(_), Some(_)) => {
            problems.push(RuleProblem::TwoEffects);
            &[]
        }
    };
    let (mut publish, mut subscribe) = (false, false);
    for action in actions {
        match action.as_str() {
            "publish" => publish = true,
            "subscribe" => subscribe = true,
            _ => problems.push(RuleProblem::Action(action.clone())),
        }
    }
    if actions.is_empty() && problems.is_empty() {
        problems.push(RuleProblem::EmptyList(ListKind::Actions));
    }
    if raw.topics.is_empty() {
        problems.push(RuleProblem::NoTopics);
    }
    let mut topics = Vec::with_capacity(raw.topics.len());
    for topic in &raw.topics {
        match Pattern::parse(topic) {
            Ok(pattern) => topics.push(pattern),
            Err(error) => problems.push(RuleProblem::Topic {
                topic: topic.clone(),
                error,
            }),
        }
    }
    if !allows && (raw.qos_max.is_some() || raw.retain.is_some()) {
        problems.push(RuleProblem::LimitOnDeny);
    }
    let qos_max = match raw.qos_max {
        None | Some(2) => QoS::ExactlyOnce,
        Some(1) => QoS::AtLeastOnce,
        Some(0) => QoS::AtMostOnce,
        Some(other) => {
            problems.push(RuleProblem::Qos(other));
            QoS::AtMostOnce
        }
    };
    Rule {
        id,
        allows,
        publish,
        subscribe,
        users: compile_names(raw.users.as_deref(), ListKind::Users, problems),
        groups: compile_names(raw.groups.as_deref(), ListKind::Groups, problems),
        clients: compile_names(raw.clients.as_deref(), ListKind::Clients, problems),
        topics: topics.into(),
        qos_max,
        retain: raw.retain.unwrap_or(true),
    }
}

fn compile_names(
    names: Option<&[String]>,
    list: ListKind,
    problems: &mut Vec<RuleProblem>,
) -> Names {
    let Some(names) = names else {
        return Names::Everybody;
    };
    if names.is_empty() {
        problems.push(RuleProblem::EmptyList(list));
    }
    let (mut exact, mut prefixes): (Vec<Box<str>>, Vec<Box<str>>) = (Vec::new(), Vec::new());
    for name in names {
        let prefix = name.strip_suffix('*');
        if name.is_empty() || prefix.unwrap_or(name).contains('*') {
            let name = name.clone();
            problems.push(RuleProblem::Name { list, name });
            continue;
        }
        match prefix {
            Some(prefix) => prefixes.push(prefix.into()),
            None => exact.push(name.as_str().into()),
        }
    }
    exact.sort_unstable();
    exact.dedup();
    Names::Listed {
        exact: exact.into(),
        prefixes: prefixes.into(),
    }
}
