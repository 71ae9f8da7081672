//! What one run of one server came to, and what several runs come to together.

use serde_json::{Map, Value, json};

/// Figures of one run, in the order in which they are printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Which run it was, from 1.
    pub(crate) run: u32,
    values: Vec<(String, f64)>,
    notes: Vec<(String, String)>,
    details: Map<String, Value>,
}

impl Figures {
    /// A whole number.
    pub(crate) fn count(&mut self, name: &str, value: u64) {
        self.values.push((name.to_owned(), value as f64));
    }

    /// A measured number, kept to three digits behind the point.
    pub(crate) fn measure(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            let value = (value * 1_000.0).round() / 1_000.0;
            self.values.push((name.to_owned(), value));
        }
    }

    /// A line for people only.
    pub(crate) fn note(&mut self, name: &str, text: String) {
        self.notes.push((name.to_owned(), text));
    }

    /// A value for machines only.
    pub(crate) fn detail(&mut self, name: &str, value: Value) {
        self.details.insert(name.to_owned(), value);
    }

    /// A figure by its name.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let found = self.values.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
    }

    /// Names of the figures, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|(name, _)| name.as_str())
    }

    /// Lines for people.
    pub(crate) fn notes(&self) -> &[(String, String)] {
        &self.notes
    }

    /// Values for machines.
    pub(crate) const fn details(&self) -> &Map<String, Value> {
        &self.details
    }

    /// One object of all figures and details.
    pub(crate) fn object(&self) -> Map<String, Value> {
        let mut object: Map<String, Value> = self
            .values
            .iter()
            .map(|(name, value)| (name.clone(), number(*value)))
            .collect();
        object.extend(self.details.clone());
        object
    }
}

/// Median and range of a figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of the runs that have the figure; `None` when none has.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            values[half - 1].midpoint(values[half])
        } else {
            values[half]
        };
        Some(Self {
            median,
            least,
            most,
        })
    }

    /// Of one figure of several runs.
    pub(crate) fn of_figure(runs: &[Figures], name: &str) -> Option<Self> {
        Self::of(runs.iter().filter_map(|run| run.value(name)))
    }

    /// For a table: the median, and the range where it is not a point.
    pub(crate) fn text(&self) -> String {
        if self.least == self.most {
            return written(self.median);
        }
        format!(
            "{} ({}–{})",
            written(self.median),
            written(self.least),
            written(self.most)
        )
    }

    /// `[least, most]`.
    pub(crate) fn range(&self) -> Value {
        json!([number(self.least), number(self.most)])
    }
}

/// A number for JSON, whole where it is whole.
pub(crate) fn number(value: f64) -> Value {
    let rounded = (value * 1_000.0).round() / 1_000.0;
    if rounded.fract() == 0.0 && rounded.abs() < 9e15 {
        json!(rounded as i64)
    } else {
        json!(rounded)
    }
}

/// A number for people: whole ones and large ones with their digits grouped, small ones with three digits that count.
pub(crate) fn written(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 || size >= 1_000.0 {
        let sign = if value.round() < 0.0 { "-" } else { "" };
        return format!("{sign}{}", grouped(size.round() as u64));
    }
    match size {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// `1234567` as `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(written(7.0), "7");
        assert_eq!(written(123_456.4), "123,456");
        assert_eq!(written(-1_234_567.0), "-1,234,567");
        assert_eq!(written(0.12345), "0.123");
        assert_eq!(written(12.345), "12.3");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        let spread = |median, least, most| {
            Some(Spread {
                median,
                least,
                most,
            })
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(of(&[4.0, 1.0]), spread(2.5, 1.0, 4.0));
        assert_eq!(of(&[]), None);
        assert_eq!(number(4.0), json!(4));
        assert_eq!(number(4.25), json!(4.25));
    }
}
