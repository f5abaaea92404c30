// SPDX-License-Identifier: Apache-2.0
//! The JSON around the tensors: everything of a request but the values.
//!
//! Every list is capped while it is read, so that what is kept stays small next to the body however many
//! empty objects that holds. Unknown fields are ignored, as the protocol asks.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use diolkos_engine::limits::TENSORS_MAX;
use diolkos_types::{RANK_MAX, Status};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Data;
use crate::oip::params::PARAMS_MAX;

/// The first so many items of a list, and how many there were.
#[derive(Clone, Debug)]
pub(crate) struct Capped<T> {
    /// The first ones.
    pub(crate) items: Vec<T>,
    /// How many there were.
    pub(crate) total: usize,
}

impl<T> Default for Capped<T> {
    fn default() -> Capped<T> {
        Capped { items: Vec::new(), total: 0 }
    }
}

/// A request's JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(borrow, default)]
    pub(crate) id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<WireParams<'a>>,
    #[serde(borrow, default, deserialize_with = "tensors")]
    pub(crate) inputs: Capped<Input<'a>>,
    #[serde(borrow, default, deserialize_with = "optional_tensors")]
    pub(crate) outputs: Option<Capped<Output<'a>>>,
}

/// One input.
#[derive(Debug, Deserialize)]
pub(crate) struct Input<'a> {
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(deserialize_with = "lengths")]
    pub(crate) shape: Capped<i64>,
    #[serde(borrow)]
    pub(crate) datatype: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<WireParams<'a>>,
    #[serde(borrow, default)]
    pub(crate) data: Option<Data<'a>>,
}

/// One wanted output.
#[derive(Debug, Deserialize)]
pub(crate) struct Output<'a> {
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) parameters: Option<WireParams<'a>>,
}

/// A body that holds nothing but parameters: load and unload.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ParametersOnly<'a> {
    #[serde(borrow, default)]
    pub(crate) parameters: Option<WireParams<'a>>,
}

/// The body of a request to register shared memory.
#[derive(Debug, Deserialize)]
pub(crate) struct RegisterBody<'a> {
    /// The name of the shared memory.
    #[serde(borrow)]
    pub(crate) key: Cow<'a, str>,
    /// Where the region begins in it.
    #[serde(default)]
    pub(crate) offset: u64,
    /// The region's size.
    pub(crate) byte_size: u64,
}

/// The body of an index request.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct IndexBody {
    /// Only models that can serve now.
    #[serde(default)]
    pub(crate) ready: bool,
}

impl<'a> Envelope<'a> {
    /// Reads a request's JSON.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Envelope<'a>, Status> {
        parse(json)
    }
}

/// Reads JSON, with an error that a client can act on.
pub(crate) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Status> {
    // Derived readers would take a list of the fields' values as well.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(Status::invalid("the request is no valid JSON request: it has to be a JSON object"));
    }
    serde_json::from_slice(json).map_err(|error| {
        let hint = if names_nan(json, &error) {
            "; JSON has no NaN and no Infinity: send the strings \"NaN\", \"Infinity\" or \"-Infinity\", or binary data"
        } else {
            ""
        };
        Status::invalid(format!("the request is no valid JSON request: {error}{hint}"))
    })
}

/// The words for numbers that JSON does not know. Python's writers produce them, stock clients included.
const BARE_FLOATS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// The same text with these words in quotes, which is how [`super::data`] takes them; `None` if it has none.
pub(crate) fn quote_bare_floats(json: &[u8]) -> Option<Vec<u8>> {
    let mut quoted = Vec::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while at < json.len() {
        let byte = json[at];
        match byte {
            b'"' => in_string = !in_string,
            // Whatever is escaped, it does not end the string.
            b'\\' if in_string => at += 1,
            b'N' | b'I' | b'-' if !in_string => {
                if let Some(word) = bare_float(json, at) {
                    quoted.extend_from_slice(&json[copied..at]);
                    quoted.push(b'"');
                    quoted.extend_from_slice(word);
                    quoted.push(b'"');
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return None;
    }
    quoted.extend_from_slice(&json[copied..]);
    Some(quoted)
}

/// The word that stands at `at` as a value of its own.
fn bare_float(json: &[u8], at: usize) -> Option<&'static [u8]> {
    let before = *json.get(at.checked_sub(1)?)?;
    let word = BARE_FLOATS.into_iter().find(|word| json[at..].starts_with(word))?;
    let after = *json.get(at + word.len())?;
    (b"[,: \t\r\n".contains(&before) && b",]} \t\r\n".contains(&after)).then_some(word)
}

/// Whether the error stands at the bare word `NaN` or `Infinity`, which some writers produce.
fn names_nan(json: &[u8], error: &serde_json::Error) -> bool {
    let line = json.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // The column counts bytes from 1, and points at or right behind the first letter.
    let around = error.column().saturating_sub(3).min(line.len());
    let around = &line[around..line.len().min(around + 12)];
    [&b"NaN"[..], b"Infinity", b"Inf"]
        .iter()
        .any(|word| around.windows(word.len()).any(|found| found == *word))
}

/// Reads at most `max` items and counts the rest.
struct CapVisitor<T> {
    max: usize,
    what: &'static str,
    item: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for CapVisitor<T> {
    type Value = Capped<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Capped<T>, A::Error> {
        let mut capped = Capped::default();
        while capped.items.len() < self.max {
            let Some(item) = items.next_element()? else { return Ok(capped) };
            capped.items.push(item);
            capped.total += 1;
        }
        while items.next_element::<IgnoredAny>()?.is_some() {
            capped.total += 1;
        }
        Ok(capped)
    }
}

fn tensors<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Capped<T>, D::Error> {
    from.deserialize_seq(CapVisitor { max: TENSORS_MAX, what: "a list of tensors", item: PhantomData })
}

fn lengths<'de, D: Deserializer<'de>>(from: D) -> Result<Capped<i64>, D::Error> {
    from.deserialize_seq(CapVisitor { max: RANK_MAX, what: "a shape, such as [1,3]", item: PhantomData })
}

fn optional_tensors<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Capped<T>>, D::Error> {
    struct OptionVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OptionVisitor<T> {
        type Value = Option<Capped<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tensors or null")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
            tensors(from).map(Some)
        }
    }
    from.deserialize_option(OptionVisitor(PhantomData))
}

/// A parameter as it stands in the JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WireParam<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    /// Something that is no parameter, named for the message.
    Other(&'static str),
}

/// Named parameters in the order of the JSON.
#[derive(Clone, Debug, Default)]
pub(crate) struct WireParams<'a>(pub(crate) Capped<(Cow<'a, str>, WireParam<'a>)>);

/// A string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Text<'a>, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for WireParams<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WireParams<'a>, D::Error> {
        struct ParamsVisitor;

        impl<'de> Visitor<'de> for ParamsVisitor {
            type Value = WireParams<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireParams<'de>, A::Error> {
                let mut params = Capped::default();
                while params.items.len() < PARAMS_MAX {
                    let Some(Text(name)) = map.next_key()? else { return Ok(WireParams(params)) };
                    params.items.push((name, map.next_value()?));
                    params.total += 1;
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    params.total += 1;
                }
                Ok(WireParams(params))
            }
        }
        from.deserialize_map(ParamsVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for WireParam<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WireParam<'a>, D::Error> {
        struct ParamVisitor;

        impl<'de> Visitor<'de> for ParamVisitor {
            type Value = WireParam<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, number or boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<WireParam<'de>, E> {
                Ok(WireParam::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<WireParam<'de>, E> {
                Ok(WireParam::Int(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<WireParam<'de>, E> {
                Ok(i64::try_from(value).map_or(WireParam::Uint(value), WireParam::Int))
            }

            fn visit_f64<E>(self, value: f64) -> Result<WireParam<'de>, E> {
                Ok(WireParam::Double(value))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<WireParam<'de>, E> {
                Ok(WireParam::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<WireParam<'de>, E> {
                Ok(WireParam::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<WireParam<'de>, E> {
                Ok(WireParam::Other("null"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<WireParam<'de>, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(WireParam::Other("a list"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireParam<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(WireParam::Other("an object"))
            }
        }
        from.deserialize_any(ParamVisitor)
    }
}
