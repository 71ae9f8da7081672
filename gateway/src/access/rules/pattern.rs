//! One entry of a rule's `topics`: a topic filter whose levels may hold placeholders, and how it relates to what a client asks for.
//!
//! **A name never widens a pattern.** A placeholder stands for part of one level; a name that is no such part (it has `/`, `+`,
//! `#` or U+0000, is empty, or would make a topic one of the server's by a leading `$`) fits nowhere in what is allowed, and
//! everywhere in what is denied.

use std::fmt::{self, Write as _};

use crate::access::Who;

/// A topic filter with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    levels: Box<[Level]>,
    /// True exactly when a level has [`Piece::Group`]: the pattern is then one pattern for each group of the user.
    has_group: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    Template(Box<[Piece]>),
    /// `+`
    Any,
    /// `#`, always last.
    Below,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    User,
    Client,
    Group,
}

/// What a pattern is asked about a filter. For a topic, which is a filter without wildcards, the first two say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// Does it match every topic that the filter matches?
    Covers,
    /// Is there a topic that both match?
    Touches,
    /// As `Touches`, and a name that cannot stand in a placeholder counts as every topic: what denies must not be evaded by a
    /// choice of names.
    TouchesIfUnsure,
}

/// How a level with placeholders compares with a level of a filter.
enum Fit {
    Same,
    Different,
    /// A name in it is no part of a level.
    Unsure,
}

/// What is wrong with the text of a pattern, and what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// An empty text.
    #[error("it is empty; write a topic filter, \"#\" for all topics")]
    Empty,
    /// More than the protocol has room for.
    #[error("it has more than 65,535 bytes, so that no topic can match it; shorten it")]
    TooLong,
    /// U+0000, which no topic has.
    #[error("it contains U+0000, which no topic has; take it out")]
    Null,
    /// A wildcard beside something else, or `#` before the end.
    #[error(
        "a wildcard must be alone in its level, and # in the last one; write e.g. \"sensors/+/state\" or \"sensors/#\""
    )]
    Wildcard,
    /// `%` before anything but a known letter.
    #[error(
        "after % stands u (the user), c (the client identifier), g (each group of the user) or % (a percent sign)"
    )]
    Placeholder,
    /// `$share/…`
    #[error(
        "a shared subscription is judged by the filter behind its share name; write the filter without $share/NAME/"
    )]
    Shared,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > 65_535 {
            return Err(PatternError::TooLong);
        }
        if text.contains('\0') {
            return Err(PatternError::Null);
        }
        if text == "$share" || text.starts_with("$share/") {
            return Err(PatternError::Shared);
        }
        let levels = text
            .split('/')
            .map(parse_level)
            .collect::<Result<Box<[_]>, _>>()?;
        let below = levels.iter().position(|level| *level == Level::Below);
        if below.is_some_and(|index| index + 1 < levels.len()) {
            return Err(PatternError::Wildcard);
        }
        let has_group = levels.iter().any(|level| match level {
            Level::Template(pieces) => pieces.contains(&Piece::Group),
            _ => false,
        });
        Ok(Self { levels, has_group })
    }

    /// Whether the pattern, made the client's own, stands in a relation to a valid topic or filter.
    pub(super) fn relates(&self, who: &Who<'_>, filter: &str, relation: Relation) -> bool {
        if self.differs_in_first_level(filter) {
            return false;
        }
        if !self.has_group {
            return self.relates_for(who, "", filter, relation);
        }
        let mut groups = who.identity.groups.iter();
        groups.any(|group| self.relates_for(who, group, filter, relation))
    }

    /// True for most patterns that have nothing to do with a filter, and quickly so. False says nothing.
    fn differs_in_first_level(&self, filter: &str) -> bool {
        let Some(Level::Literal(first)) = self.levels.first() else {
            return false;
        };
        let (filter, first) = (filter.as_bytes(), first.as_bytes());
        let is_wild = matches!(filter.first(), Some(b'+' | b'#'));
        let is_same =
            filter.starts_with(first) && matches!(filter.get(first.len()), None | Some(b'/'));
        !is_wild && !is_same
    }

    fn relates_for(&self, who: &Who<'_>, group: &str, filter: &str, relation: Relation) -> bool {
        // A wildcard in the first level matches no topic that starts with `$` (MQTT-4.7.2-1).
        let hidden = filter.starts_with('$');
        let mut steps = filter.as_bytes().split(|byte| *byte == b'/');
        for (index, level) in self.levels.iter().enumerate() {
            let first = index == 0;
            if *level == Level::Below {
                return !(first && hidden);
            }
            let Some(step) = steps.next() else {
                return false;
            };
            let wild = matches!(step, b"+" | b"#");
            if wild && relation == Relation::Covers {
                match (step, level) {
                    (b"+", Level::Any) => continue,
                    // A topic has a first level, so that here `+/#` is as much as `#`.
                    (b"#", Level::Any) if first => return self.levels[1..] == [Level::Below],
                    _ => return false,
                }
            }
            match level {
                Level::Literal(literal) if wild => {
                    if first && literal.starts_with('$') {
                        return false;
                    }
                }
                Level::Literal(literal) => {
                    if literal.as_bytes() != step {
                        return false;
                    }
                }
                Level::Template(pieces) => match fit(pieces, who, group, step, first) {
                    Fit::Same => {}
                    Fit::Different => return false,
                    Fit::Unsure => return relation == Relation::TouchesIfUnsure,
                },
                Level::Any => {
                    if first && hidden {
                        return false;
                    }
                }
                Level::Below => {}
            }
            if step == b"#" {
                return self.rest_exists(who, group, index + 1, relation);
            }
        }
        match steps.next() {
            None => true,
            // `a/#` matches `a` too, so that it touches the pattern `a`.
            Some(b"#") => relation != Relation::Covers,
            Some(_) => false,
        }
    }

    /// Whether the levels from an index on can be part of a topic at all: `#` in a filter takes them as they are.
    fn rest_exists(&self, who: &Who<'_>, group: &str, from: usize, relation: Relation) -> bool {
        for level in &self.levels[from..] {
            if let Level::Template(pieces) = level {
                match fit(pieces, who, group, b"+", false) {
                    Fit::Same => {}
                    Fit::Different => return false,
                    Fit::Unsure => return relation == Relation::TouchesIfUnsure,
                }
            }
        }
        true
    }
}

impl fmt::Display for Pattern {
    /// The text that it was made from.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, level) in self.levels.iter().enumerate() {
            if index > 0 {
                formatter.write_char('/')?;
            }
            match level {
                Level::Literal(text) => write_text(formatter, text)?,
                Level::Template(pieces) => {
                    for piece in pieces {
                        match piece {
                            Piece::Text(text) => write_text(formatter, text)?,
                            Piece::User => formatter.write_str("%u")?,
                            Piece::Client => formatter.write_str("%c")?,
                            Piece::Group => formatter.write_str("%g")?,
                        }
                    }
                }
                Level::Any => formatter.write_char('+')?,
                Level::Below => formatter.write_char('#')?,
            }
        }
        Ok(())
    }
}

fn write_text(formatter: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    formatter.write_str(&text.replace('%', "%%"))
}

fn parse_level(text: &str) -> Result<Level, PatternError> {
    match text {
        "+" => return Ok(Level::Any),
        "#" => return Ok(Level::Below),
        _ if text.contains(['+', '#']) => return Err(PatternError::Wildcard),
        _ => {}
    }
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            literal.push(character);
            continue;
        }
        let piece = match characters.next() {
            Some('%') => {
                literal.push('%');
                continue;
            }
            Some('u') => Piece::User,
            Some('c') => Piece::Client,
            Some('g') => Piece::Group,
            _ => return Err(PatternError::Placeholder),
        };
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
        }
        pieces.push(piece);
    }
    if pieces.is_empty() {
        return Ok(Level::Literal(literal.into()));
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal.into()));
    }
    Ok(Level::Template(pieces.into()))
}

/// Holds a level with placeholders against a level of a filter, which may be a wildcard.
fn fit(pieces: &[Piece], who: &Who<'_>, group: &str, step: &[u8], first: bool) -> Fit {
    let wild = matches!(step, b"+" | b"#");
    let mut rest = step;
    for (index, piece) in pieces.iter().enumerate() {
        let (text, is_name) = match piece {
            Piece::Text(text) => (&**text, false),
            Piece::User => match &who.identity.user {
                Some(user) => (&**user, true),
                None => return Fit::Different, // Who has no name has no topic.
            },
            Piece::Client => (who.client, true),
            Piece::Group => (group, true),
        };
        let leads = first && index == 0;
        if is_name && !is_part_of_level(text, leads) {
            return Fit::Unsure;
        }
        if wild {
            if leads && text.starts_with('$') {
                return Fit::Different;
            }
            continue;
        }
        match rest.strip_prefix(text.as_bytes()) {
            Some(left) => rest = left,
            None => return Fit::Different,
        }
    }
    if wild || rest.is_empty() {
        Fit::Same
    } else {
        Fit::Different
    }
}

/// Whether a name can stand for a part of one level; `leads` when it would begin the topic.
fn is_part_of_level(name: &str, leads: bool) -> bool {
    let plain = |byte: u8| !matches!(byte, b'/' | b'+' | b'#' | 0);
    !name.is_empty() && name.bytes().all(plain) && !(leads && name.starts_with('$'))
}
