//! A type as a table, which is both directions at once: what stands in it is written and read in this order.
//!
//! ```text
//! record! { ReplyTo { core, home, request, index } }        // A struct: its fields. `filter via filter` takes the
//!                                                           // pair `checked::filter::{write, read}` for a field.
//! record! { Page { reply } since 2 { more = false } }       // `more` came with version 2; before, it was false.
//! record! { Recipient (9 bytes or more) { id, delivery } }  // For what stands in lists: bounds how long they can be.
//! tagged! { Target as "target" { 1 => Live { core, connection }, 2 => Home { partition } } }
//! ```

/// Writes one field.
macro_rules! put {
    ($out:ident, $value:expr) => {
        $crate::bus::wire::primitive::Wire::write($value, $out)
    };
    ($out:ident, $value:expr, $codec:ident) => {
        $crate::bus::wire::checked::$codec::write($value, $out)
    };
}

/// Reads one field; the path says where it is when that fails.
macro_rules! take {
    ($input:ident, $path:expr) => {
        $crate::bus::wire::primitive::Wire::read($input).map_err(|fault| fault.in_field($path))?
    };
    ($input:ident, $path:expr, $codec:ident) => {
        $crate::bus::wire::checked::$codec::read($input).map_err(|fault| fault.in_field($path))?
    };
}

/// The table of a struct.
macro_rules! record {
    (
        $name:ident $(($bytes_min:literal bytes or more))?
            { $($field:ident $(via $codec:ident)?),* $(,)? }
        $(since $version:literal { $($late:ident $(via $late_codec:ident)? = $before:expr),* $(,)? })*
    ) => {
        impl $crate::bus::wire::primitive::Wire for $name {
            $(const BYTES_MIN: usize = $bytes_min;)?

            #[inline]
            fn write(&self, out: &mut $crate::bus::wire::primitive::Writer<'_>) {
                $(put!(out, &self.$field $(, $codec)?);)*
                $(if out.version >= $version {
                    $(put!(out, &self.$late $(, $late_codec)?);)*
                })*
            }

            #[inline]
            fn read(
                input: &mut $crate::bus::wire::primitive::Reader<'_>,
            ) -> Result<Self, $crate::bus::wire::error::Fault> {
                Ok(Self {
                    $($field: take!(
                        input,
                        concat!(stringify!($name), ".", stringify!($field))
                        $(, $codec)?
                    ),)*
                    $($($late: if input.version >= $version {
                        take!(
                            input,
                            concat!(stringify!($name), ".", stringify!($late))
                            $(, $late_codec)?
                        )
                    } else {
                        $before
                    },)*)*
                })
            }
        }
    };
}

/// The table of an enum: a byte tells the variant, then come its fields.
macro_rules! tagged {
    (
        $name:ident as $what:literal {
            $($number:literal => $variant:ident
                $(($inner:ident))?
                $({ $($field:ident $(via $codec:ident)?),* $(,)? })?
            ),* $(,)?
        }
    ) => {
        impl $crate::bus::wire::primitive::Wire for $name {
            fn write(&self, out: &mut $crate::bus::wire::primitive::Writer<'_>) {
                match self {
                    $(Self::$variant $(($inner))? $({ $($field),* })? => {
                        out.byte($number);
                        $(put!(out, $inner);)?
                        $($(put!(out, $field $(, $codec)?);)*)?
                    })*
                }
            }

            fn read(
                input: &mut $crate::bus::wire::primitive::Reader<'_>,
            ) -> Result<Self, $crate::bus::wire::error::Fault> {
                Ok(match input.byte()? {
                    $($number => {
                        $(let $inner = take!(input, stringify!($variant));)?
                        $($(let $field = take!(
                            input,
                            concat!(stringify!($variant), ".", stringify!($field))
                            $(, $codec)?
                        );)*)?
                        Self::$variant $(($inner))? $({ $($field),* })?
                    })*
                    number => return Err($crate::bus::wire::primitive::unknown($what, number)),
                })
            }
        }

        impl $name {
            /// The variants by number.
            #[allow(dead_code, reason = "of most types nobody asks")]
            pub(super) const WIRE_NAMES: &'static [(u8, &'static str)] =
                &[$(($number, stringify!($variant))),*];
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::bus::wire::primitive::{Reader, Wire, Writer};

    #[derive(Debug, PartialEq)]
    struct Page {
        number: u16,
        filter: Box<str>,
        more: bool,
        count: u32,
        next: Box<str>,
    }

    record! { Page { number, filter via filter }
        since 2 { more = true }
        since 4 { count = 7, next via topic_or_start = "before".into() }
    }

    fn page() -> Page {
        Page {
            number: 300,
            filter: "a/+".into(),
            more: false,
            count: 1,
            next: "b".into(),
        }
    }

    fn written(version: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        page().write(&mut Writer::new(version, &mut bytes));
        bytes
    }

    /// What is read, and how many bytes are left then.
    fn read(bytes: &[u8], version: u16) -> (Page, usize) {
        let mut reader = Reader::new(version, bytes);
        let page = Page::read(&mut reader).expect("it was written so");
        (page, reader.left())
    }

    #[test]
    fn a_field_of_a_later_version_is_left_out_before_and_has_then_what_held_before() {
        let first = Page {
            more: true,
            count: 7,
            next: "before".into(),
            ..page()
        };
        assert_eq!(read(&written(1), 1), (first, 0));
        let second = Page {
            count: 7,
            next: "before".into(),
            ..page()
        };
        assert_eq!(read(&written(2), 2), (second, 0));
        assert_eq!(read(&written(4), 4), (page(), 0));
    }

    #[test]
    fn a_reader_of_an_older_version_finds_its_fields_first() {
        let (old, left) = read(&written(4), 2);
        assert_eq!((old.number, old.more, old.count), (300, false, 7));
        assert_eq!(left, 3, "count, and a text of one letter");
    }

    #[test]
    fn a_fault_names_the_field_of_the_innermost_table() {
        let bytes = [1, 1, b'+', 2];
        let fault = Page::read(&mut Reader::new(2, &bytes)).expect_err("2 is no truth");
        let error = fault.in_kind("Page").to_string();
        assert!(error.starts_with("Page: Page.more: 2 is no yes"), "{error}");
    }
}
