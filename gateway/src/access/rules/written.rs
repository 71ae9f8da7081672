//! Compiled rules as a token could have had them, for other nodes: compiled again, they are the same rules.

use edge_proto::packet::QoS;

use super::parse::RawRule;
use super::{Names, Rule, RuleSource, Rules};

impl Rules {
    /// Where the rules come from.
    pub fn source(&self) -> RuleSource {
        // Of no rules it makes no difference.
        let first = self.rules.first();
        first.map_or(RuleSource::Token, |rule| rule.id.source)
    }

    /// The rules, of which [`Rules::of_client`] makes these again if they are a client's.
    pub fn written(&self) -> Vec<RawRule> {
        self.rules.iter().map(Rule::written).collect()
    }
}

impl Rule {
    fn written(&self) -> RawRule {
        let actions = [(self.publish, "publish"), (self.subscribe, "subscribe")];
        let actions = actions.into_iter().filter(|(has, _)| *has);
        let actions: Vec<String> = actions.map(|(_, name)| name.to_owned()).collect();
        let (allow, deny) = match self.allows {
            true => (Some(actions), None),
            false => (None, Some(actions)),
        };
        let is_limited = self.allows && self.qos_max < QoS::ExactlyOnce;
        RawRule {
            allow,
            deny,
            users: self.users.written(),
            groups: self.groups.written(),
            clients: self.clients.written(),
            topics: self.topics.iter().map(ToString::to_string).collect(),
            qos_max: is_limited.then_some(self.qos_max as u8),
            retain: (!self.retain).then_some(false),
        }
    }
}

impl Names {
    fn written(&self) -> Option<Vec<String>> {
        let Self::Listed { exact, prefixes } = self else {
            return None;
        };
        let exact = exact.iter().map(ToString::to_string);
        let prefixes = prefixes.iter().map(|prefix| format!("{prefix}*"));
        Some(exact.chain(prefixes).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn written_rules_have_every_limit_and_name_and_are_compiled_to_the_same() {
        let rules = json!([
            { "allow": ["publish"], "users": ["robot-*", "bob", "alice", "bob"], "groups": ["*"],
              "clients": ["panel"], "topics": ["u/%u/#", "100%%/%c-%g%%/+", "a//b"],
              "qos_max": 0, "retain": false },
            { "deny": ["subscribe", "publish"], "topics": ["$SYS/#"] },
        ]);
        let rules = Rules::from_json(&rules, RuleSource::CallOut).expect("valid rules");
        let written = rules.written();
        let texts = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
        assert_eq!(written[0].users, texts(&["alice", "bob", "robot-*"]));
        assert_eq!(
            Some(&written[0].topics),
            texts(&["u/%u/#", "100%%/%c-%g%%/+", "a//b"]).as_ref()
        );
        assert_eq!(
            (written[0].qos_max, written[0].retain),
            (Some(0), Some(false))
        );
        assert_eq!(written[1].deny, texts(&["publish", "subscribe"]));
        assert_eq!(Rules::of_client(&written, rules.source()), Ok(rules));
    }
}
