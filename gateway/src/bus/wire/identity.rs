//! Who a client has proved to be. Its own rules travel as they are written in a token, and are read as strictly: a node that cannot
//! make out a rule must not let the client in without it.

use super::error::{Fault, Problem};
use super::primitive::{Reader, Wire, Writer};
use crate::access::Identity;
use crate::access::rules::{ParseBounds, RawRule, RuleSource, Rules};

record! { Identity { user, groups, expires_at_unix_ms, rules } }

tagged! { RuleSource as "source of rules" {
    0 => File,
    1 => Token,
    2 => CallOut,
} }

record! { RawRule { allow, deny, users, groups, clients, topics, qos_max, retain } }

/// Where they come from, then rule by rule.
impl Wire for Rules {
    fn write(&self, out: &mut Writer<'_>) {
        self.source().write(out);
        self.written().write(out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        let source = take!(input, "Rules.source");
        let count = input.count(RawRule::BYTES_MIN)?;
        // The first one that is too many is enough to tell that there are.
        let rules = (0..count.min(ParseBounds::CLIENT.rules_max + 1)).map(|_| RawRule::read(input));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        Self::of_client(&rules, source)
            .map_err(|error| Fault::from(Problem::Rules(error)).in_field("Rules.rules"))
    }
}
