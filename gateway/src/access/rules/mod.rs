//! What clients may publish and subscribe to: an ordered list of rules, the first that fits decides, and what none fits is denied.
//!
//! ```toml
//! [[rule]]
//! allow = ["publish", "subscribe"]  # or deny = […]
//! users = ["alice", "robot-*"]      # left out: everybody, anonymous clients included; "*": every authenticated user
//! groups = ["staff"]                # in at least one of these; every list that is there must fit
//! clients = ["panel-*"]
//! topics = ["u/%u/#", "g/%g/in"]    # %u user, %c client identifier, %g each group of the user, %% a percent sign
//! qos_max = 1                       # left out: 2
//! retain = false                    # left out: true
//! ```
//!
//! A rule fits a publish when its action, its client and one of its topics do; QoS and retain are then limits that it sets, not
//! conditions. **A subscription is allowed only when every topic that its filter can match is**: one pattern of an allowing
//! rule covers the filter, and no denying rule before it touches the filter. A filter that takes several rules or patterns
//! together to cover is denied, which is stricter than asking for each topic, never laxer.
//!
//! The compiled list is shared by all sessions. Judging allocates nothing.

mod parse;
mod pattern;
mod written;

#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;

use edge_proto::packet::QoS;
use edge_proto::topic::{SharedFilter, TopicFilter, TopicName};

pub use parse::{ListKind, ParseBounds, RawRule, RuleError, RuleProblem, RulesError};
pub use pattern::PatternError;

use super::Who;
use pattern::{Pattern, Relation};

/// A compiled list of rules. An empty one denies everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Box<[Rule]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    id: RuleId,
    allows: bool,
    publish: bool,
    subscribe: bool,
    users: Names,
    groups: Names,
    clients: Names,
    topics: Box<[Pattern]>,
    qos_max: QoS,
    retain: bool,
}

/// A list of names, or everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Names {
    #[default]
    Everybody,
    Listed {
        /// Sorted.
        exact: Box<[Box<str>]>,
        /// What was written with `*` at its end, without it.
        prefixes: Box<[Box<str>]>,
    },
}

/// Where a rule stands, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    /// Which list it is in.
    pub source: RuleSource,
    /// Its place in the list, from 1.
    pub number: u32,
    /// Its line in the file, from 1; a token has none.
    pub line: Option<NonZeroU32>,
}

/// Which list a rule is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSource {
    /// The node's own rules.
    File,
    /// What came with the client's token.
    Token,
    /// What the call-out answered.
    CallOut,
}

/// What the rules say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be done.
    Allowed {
        /// The highest QoS: for a publish what the rule allows, for a subscription what is granted, at most what was asked for.
        qos_max: QoS,
        /// The rule that decided.
        rule: RuleId,
    },
    /// It may not.
    Denied(Denial),
}

/// Why something is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A rule denies it, or a topic that it would match.
    #[error("{0} denies it")]
    Rule(RuleId),
    /// No rule allows it, or for a subscription: no rule allows all of it.
    #[error("no rule allows it")]
    NoRule,
    /// The rule allows the topic at a lower QoS.
    #[error("{rule} allows it up to QoS {}", *.qos_max as u8)]
    QosTooHigh {
        /// What it allows.
        qos_max: QoS,
        /// Which rule.
        rule: RuleId,
    },
    /// The rule allows the topic without retain.
    #[error("{0} allows it without retain")]
    Retain(RuleId),
    /// The text is no topic filter.
    #[error("it is not a topic filter")]
    NotAFilter,
}

impl Decision {
    /// True when it may be done.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rule {}", self.number)?;
        match (self.source, self.line) {
            (RuleSource::File, Some(line)) => write!(formatter, " (line {line})"),
            (RuleSource::File, None) => Ok(()),
            (RuleSource::Token, _) => formatter.write_str(" of the token"),
            (RuleSource::CallOut, _) => formatter.write_str(" of the call-out"),
        }
    }
}

impl Rules {
    /// Rules under which everybody may publish and subscribe to every topic that is not the server's (`$…`).
    pub fn open() -> Self {
        let topics = Pattern::parse("#").into_iter().collect();
        let rule = Rule {
            id: RuleId {
                source: RuleSource::File,
                number: 1,
                line: None,
            },
            allows: true,
            publish: true,
            subscribe: true,
            users: Names::Everybody,
            groups: Names::Everybody,
            clients: Names::Everybody,
            topics,
            qos_max: QoS::ExactlyOnce,
            retain: true,
        };
        Self {
            rules: Box::new([rule]),
        }
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True when there is none, so that nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a client may publish to a topic, a will included. The identity's own rules come first.
    pub fn publish(&self, who: &Who<'_>, topic: TopicName<'_>, qos: QoS, retain: bool) -> Decision {
        let topic = topic.as_str();
        let fits = |rule: &&Rule| rule.publish && rule.relates(who, topic, rule.own_relation());
        let Some(rule) = self.in_order(who).find(fits) else {
            return Decision::Denied(Denial::NoRule);
        };
        let (id, qos_max) = (rule.id, rule.qos_max);
        match rule.allows {
            false => Decision::Denied(Denial::Rule(id)),
            true if qos > qos_max => Decision::Denied(Denial::QosTooHigh { qos_max, rule: id }),
            true if retain && !rule.retain => Decision::Denied(Denial::Retain(id)),
            true => Decision::Allowed { qos_max, rule: id },
        }
    }

    /// Whether a client may have a subscription, whose filter is as in SUBSCRIBE: a shared one is judged by the filter behind
    /// its share name. Ask again when rules have changed.
    pub fn subscribe(&self, who: &Who<'_>, filter: &str, qos: QoS) -> Decision {
        let parsed = match SharedFilter::parse(filter) {
            Ok(Some(shared)) => Ok(shared.filter),
            Ok(None) => TopicFilter::parse(filter),
            Err(violation) => Err(violation),
        };
        let Ok(filter) = parsed else {
            return Decision::Denied(Denial::NotAFilter);
        };
        let filter = filter.as_str();
        let mut qos_max = qos;
        for rule in self.in_order(who).filter(|rule| rule.subscribe) {
            if rule.relates(who, filter, rule.own_relation()) {
                if !rule.allows {
                    return Decision::Denied(Denial::Rule(rule.id));
                }
                let qos_max = qos_max.min(rule.qos_max);
                return Decision::Allowed {
                    qos_max,
                    rule: rule.id,
                };
            }
            // Of the topics that this rule decides and does not cover, its limit holds too.
            let lower = rule.allows && rule.qos_max < qos_max;
            if lower && rule.relates(who, filter, Relation::Touches) {
                qos_max = rule.qos_max;
            }
        }
        Decision::Denied(Denial::NoRule)
    }

    /// The identity's own rules, then these.
    fn in_order<'r>(&'r self, who: &Who<'r>) -> impl Iterator<Item = &'r Rule> {
        let own = who.identity.rules.as_deref();
        let own = own.map_or(&[][..], |rules| &*rules.rules);
        own.iter().chain(&*self.rules)
    }
}

impl Rule {
    /// How its patterns must relate to a filter for the rule to decide about it.
    const fn own_relation(&self) -> Relation {
        if self.allows {
            Relation::Covers
        } else {
            Relation::TouchesIfUnsure
        }
    }

    /// Whether the rule is about this client and one of its patterns relates to the filter. Topics first: they differ soonest.
    fn relates(&self, who: &Who<'_>, filter: &str, relation: Relation) -> bool {
        let mut topics = self.topics.iter();
        topics.any(|pattern| pattern.relates(who, filter, relation)) && self.is_about(who)
    }

    fn is_about(&self, who: &Who<'_>) -> bool {
        let identity = who.identity;
        self.users.contain_one_of(identity.user.as_deref())
            && self
                .groups
                .contain_one_of(identity.groups.iter().map(|group| &**group))
            && self.clients.contain_one_of([who.client])
    }
}

impl Names {
    fn contain_one_of<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> bool {
        let Self::Listed { exact, prefixes } = self else {
            return true;
        };
        names.into_iter().any(|name| {
            let found = exact
                .binary_search_by(|listed| (**listed).cmp(name))
                .is_ok();
            found || prefixes.iter().any(|prefix| name.starts_with(&**prefix))
        })
    }
}
