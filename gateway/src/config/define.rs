//! One declaration per key: [`sections!`] makes of it the typed field, its default, its range, its help and its place in
//! [`KEYS`](super::KEYS), so that none of them can be forgotten or contradict another.

use toml::Value;

/// One key of the configuration, as data: what the printing, the example file, the documentation and the sources need.
#[derive(Debug)]
pub struct Key {
    /// Its section.
    pub section: &'static str,
    /// Its name in the section.
    pub name: &'static str,
    /// What it does, and what happens at the bound.
    pub help: &'static str,
    /// Its default.
    pub default: fn() -> Value,
    /// Lowest and highest value, for keys that have a range.
    pub range: fn() -> Option<(Value, Value)>,
    /// Whether a value would do; the error says what is wrong and what would be right.
    pub check: fn(&Value) -> Result<(), String>,
}

impl Key {
    /// `section.name`, as it is named in every message.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub fn environment(&self) -> String {
        format!("ROADSTEAD_{}_{}", self.section, self.name).to_uppercase()
    }
}

/// A section as data.
#[derive(Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What its keys have in common.
    pub help: &'static str,
}

macro_rules! sections {
    (
        $(#[doc = $config_help:literal])+ $Config:ident;
        $(
            $(#[doc = $section_help:literal])+
            $section:ident: $Section:ident {
                $($(#[doc = $help:literal])+ $key:ident: $Type:ty = $default:expr $(, $low:expr => $high:expr)?;)+
            }
        )+
    ) => {
        $(
            $(#[doc = $section_help])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section {
                $($(#[doc = $help])+ pub $key: $Type,)+
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($key: $default,)+ }
                }
            }
        )+

        $(#[doc = $config_help])+
        #[derive(Clone, Debug, Default)]
        pub struct $Config {
            $($(#[doc = $section_help])+ pub $section: $Section,)+
            pub(super) origins: $crate::config::origin::Origins,
        }

        impl PartialEq for $Config {
            /// Equal values, wherever they came from.
            fn eq(&self, other: &Self) -> bool {
                true $(&& self.$section == other.$section)+
            }
        }

        impl $Config {
            /// Reads every key from the raw values, or its default; reports every bad one.
            pub(super) fn from_raw(
                raw: &$crate::config::raw::RawConfig,
                errors: &mut Vec<$crate::config::ConfigError>,
            ) -> Self {
                Self {
                    $($section: $Section {
                        $($key: $crate::config::raw::read::<$Type>(
                            raw,
                            stringify!($section),
                            stringify!($key),
                            || $default,
                            sections!(@range $($low => $high)?),
                            errors,
                        ),)+
                    },)+
                    origins: raw.origins(),
                }
            }

            /// Every key with its value, in the order of [`KEYS`].
            pub(super) fn values(&self) -> Vec<(&'static $crate::config::Key, toml::Value)> {
                let values = [$($($crate::config::value::Setting::to_value(&self.$section.$key),)+)+];
                KEYS.iter().zip(values).collect()
            }
        }

        /// Every section, in the order of the example file.
        pub static SECTIONS: &[$crate::config::Section] = &[
            $($crate::config::Section {
                name: stringify!($section),
                help: concat!($($section_help),+).trim_ascii(),
            },)+
        ];

        /// Every key, in the order of the example file.
        pub static KEYS: &[$crate::config::Key] = &[
            $($($crate::config::Key {
                section: stringify!($section),
                name: stringify!($key),
                help: concat!($($help),+).trim_ascii(),
                default: || $crate::config::value::Setting::to_value(&{ let default: $Type = $default; default }),
                range: || $crate::config::value::range_values::<$Type>(sections!(@range $($low => $high)?)),
                check: |value| $crate::config::value::parse_in_range::<$Type>(value, sections!(@range $($low => $high)?))
                    .map(|_| ()),
            },)+)+
        ];
    };
    (@range) => { None };
    (@range $low:expr => $high:expr) => { Some(($low, $high)) };
}
pub(super) use sections;
