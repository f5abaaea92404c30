// SPDX-License-Identifier: Apache-2.0
//! A bounded parser of the protobuf text format, which knows no schema.
//!
//! It turns the text into a tree whose every value knows its line and column, so that whoever gives the tree
//! a meaning can point at what is wrong. The same parser takes the JSON form of a message (the text begins
//! with `{`), because the two differ only in quotes, commas and a pair of braces.
//!
//! Invariants: size, depth and number of nodes are bounded by [`super::limits`], so recursion is too; any
//! bytes give a tree or an error, never a panic.

use std::fmt;

use super::limits::{CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, CONFIG_NODES_MAX};

/// A place in the text; both numbers count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A message: its fields in the order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The fields; a name may appear several times.
    pub fields: Vec<Field>,
}

/// One field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: Box<str>,
    /// Where the name stands.
    pub pos: Pos,
    /// What it is set to.
    pub value: Value,
}

/// A value, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Where it begins.
    pub pos: Pos,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of values.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `{ … }` or `< … >`.
    Message(Message),
    /// `[a, b]`.
    List(Vec<Value>),
    /// A string, with adjacent ones joined.
    Text(Box<str>),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// A bare word: an enumerator, `true`, `inf`.
    Word(Box<str>),
}

impl Kind {
    /// What to call it in a message.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            Kind::Message(_) => "a message",
            Kind::List(_) => "a list",
            Kind::Text(_) => "a string",
            Kind::Int(_) => "a whole number",
            Kind::Float(_) => "a number",
            Kind::Word(_) => "a word",
        }
    }
}

/// What is wrong with the text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pos}: {problem}")]
pub struct SyntaxError {
    /// Where.
    pub pos: Pos,
    /// What.
    pub problem: Box<str>,
}

/// Parses the text format, or its JSON form, from bytes that should be UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<Message, SyntaxError> {
    let start = Pos { line: 1, column: 1 };
    if bytes.len() > CONFIG_BYTES_MAX {
        let problem = format!("the text has {} bytes, and the limit is {CONFIG_BYTES_MAX}", bytes.len());
        return Err(SyntaxError { pos: start, problem: problem.into() });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            let mut cursor = Parser::new(bytes);
            while cursor.at < error.valid_up_to() {
                cursor.bump();
            }
            Err(cursor.error(format!("the byte 0x{:02x} is not UTF-8", bytes[error.valid_up_to()])))
        }
    }
}

/// Parses the text format, or its JSON form.
pub fn parse(text: &str) -> Result<Message, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > CONFIG_BYTES_MAX {
        return parse_bytes(text.as_bytes());
    }
    let mut parser = Parser::new(text.as_bytes());
    parser.skip_space();
    if parser.peek() == Some(b'{') {
        parser.json = true;
        parser.bump();
        let message = parser.fields(Some(b'}'), 0)?;
        parser.skip_space();
        return match parser.peek() {
            None => Ok(message),
            Some(_) => Err(parser.error("something follows the closing `}`")),
        };
    }
    parser.fields(None, 0)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    pos: Pos,
    nodes: usize,
    /// Field names may be quoted, and `null` means that the field is not set.
    json: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Parser<'a> {
        Parser { text, at: 0, pos: Pos { line: 1, column: 1 }, nodes: 0, json: false }
    }

    fn error(&self, problem: impl Into<Box<str>>) -> SyntaxError {
        SyntaxError { pos: self.pos, problem: problem.into() }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn bump(&mut self) {
        let Some(byte) = self.peek() else { return };
        self.at += 1;
        if byte == b'\n' {
            self.pos.line += 1;
            self.pos.column = 1;
        } else if self.peek().is_none_or(|next| next & 0xC0 != 0x80) {
            // Continuation bytes belong to the character before them.
            self.pos.column += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.bump();
        }
        found
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.bump();
                    }
                }
                _ if byte.is_ascii_whitespace() => self.bump(),
                _ => return,
            }
        }
    }

    fn node(&mut self) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if self.nodes > CONFIG_NODES_MAX {
            return Err(self.error(format!("more than {CONFIG_NODES_MAX} fields and values")));
        }
        Ok(())
    }

    /// Fields up to `close`, which is eaten, or up to the end of the text.
    fn fields(&mut self, close: Option<u8>, depth: usize) -> Result<Message, SyntaxError> {
        let mut message = Message::default();
        loop {
            self.skip_space();
            match (self.peek(), close) {
                (None, None) => return Ok(message),
                (None, Some(close)) => {
                    return Err(self.error(format!("the text ends and `{}` is missing", char::from(close))));
                }
                (Some(byte), Some(close)) if byte == close => {
                    self.bump();
                    return Ok(message);
                }
                (Some(_), _) => message.fields.extend(self.field(depth)?),
            }
            self.skip_space();
            if !self.eat(b',') {
                self.eat(b';');
            }
        }
    }

    fn field(&mut self, depth: usize) -> Result<Option<Field>, SyntaxError> {
        self.node()?;
        let pos = self.pos;
        let name = match self.peek() {
            Some(b'"' | b'\'') if self.json => self.string()?,
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => self.word(),
            Some(b'[') => return Err(self.error("extensions and `Any` in brackets are not supported here")),
            _ => return Err(self.unexpected("a field name")),
        };
        self.skip_space();
        let colon = self.eat(b':');
        self.skip_space();
        if !colon && !matches!(self.peek(), Some(b'{' | b'<' | b'[')) {
            return Err(self.unexpected(&format!("`:` or a message after the field `{name}`")));
        }
        let value = self.value(depth)?;
        if self.json && matches!(&value.kind, Kind::Word(word) if &**word == "null") {
            return Ok(None);
        }
        Ok(Some(Field { name, pos, value }))
    }

    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.node()?;
        let pos = self.pos;
        let kind = match self.peek() {
            Some(b'{') => self.message(b'}', depth)?,
            Some(b'<') => self.message(b'>', depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"' | b'\'') => Kind::Text(self.strings()?),
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => Kind::Word(self.word()),
            Some(byte) if byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.') => self.number()?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Value { pos, kind })
    }

    fn deeper(&self, depth: usize) -> Result<usize, SyntaxError> {
        if depth >= CONFIG_DEPTH_MAX {
            return Err(self.error(format!("nested deeper than {CONFIG_DEPTH_MAX} levels")));
        }
        Ok(depth + 1)
    }

    fn message(&mut self, close: u8, depth: usize) -> Result<Kind, SyntaxError> {
        let depth = self.deeper(depth)?;
        self.bump();
        Ok(Kind::Message(self.fields(Some(close), depth)?))
    }

    fn list(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        let depth = self.deeper(depth)?;
        self.bump();
        let mut values = Vec::new();
        loop {
            self.skip_space();
            // Triton's own parser takes a comma before the closing bracket, and configurations have it.
            if self.eat(b']') {
                return Ok(Kind::List(values));
            }
            values.push(self.value(depth)?);
            self.skip_space();
            if !self.eat(b',') && self.peek() != Some(b']') {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn word(&mut self) -> Box<str> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            self.bump();
        }
        String::from_utf8_lossy(&self.text[start..self.at]).into()
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let pos = self.pos;
        let start = self.at;
        let sign = matches!(self.peek(), Some(b'-' | b'+'));
        if sign {
            self.bump();
            self.skip_space();
        }
        let digits_at = self.at;
        while let Some(byte) = self.peek() {
            let exponent_sign = matches!(byte, b'+' | b'-')
                && matches!(self.text[self.at - 1], b'e' | b'E')
                && !self.text[digits_at..].starts_with(b"0x");
            if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || exponent_sign) {
                break;
            }
            self.bump();
        }
        let negative = self.text[start] == b'-';
        let digits = String::from_utf8_lossy(&self.text[digits_at..self.at]);
        number(&digits, negative).ok_or_else(|| SyntaxError {
            pos,
            problem: format!("`{}` is no number", String::from_utf8_lossy(&self.text[start..self.at])).into(),
        })
    }

    /// A string and those that follow it directly, joined.
    fn strings(&mut self) -> Result<Box<str>, SyntaxError> {
        let mut joined = String::from(self.string()?);
        loop {
            self.skip_space();
            if !matches!(self.peek(), Some(b'"' | b'\'')) {
                return Ok(joined.into());
            }
            joined.push_str(&self.string()?);
        }
    }

    fn string(&mut self) -> Result<Box<str>, SyntaxError> {
        let opened = self.pos;
        let quote = self.peek();
        self.bump();
        let mut bytes = Vec::new();
        loop {
            match self.peek() {
                None | Some(b'\n') => {
                    let problem = "the string that begins here has no closing quote on its line".into();
                    return Err(SyntaxError { pos: opened, problem });
                }
                byte if byte == quote => {
                    self.bump();
                    break;
                }
                Some(b'\\') => self.escape(&mut bytes)?,
                Some(byte) => {
                    bytes.push(byte);
                    self.bump();
                }
            }
        }
        String::from_utf8(bytes).map(Into::into).map_err(|_| SyntaxError {
            pos: opened,
            problem: "the escapes of this string make bytes that are not UTF-8".into(),
        })
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let pos = self.pos;
        self.bump();
        let escape = self.peek().unwrap_or(b'\n');
        let simple = match escape {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'\\' | b'\'' | b'"' | b'?' | b'/' => escape,
            b'0'..=b'7' => {
                let value = self.digits(8, 3);
                bytes.push(u8::try_from(value).map_err(|_| bad_escape(pos, "is above 255"))?);
                return Ok(());
            }
            b'x' | b'X' => {
                self.bump();
                if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                    return Err(bad_escape(pos, "needs one or two hexadecimal digits"));
                }
                // Two digits at most, so the value fits.
                bytes.push(self.digits(16, 2) as u8);
                return Ok(());
            }
            b'u' | b'U' => return self.unicode(pos, bytes),
            _ => return Err(bad_escape(pos, "is unknown; write `\\\\` for a backslash")),
        };
        bytes.push(simple);
        self.bump();
        Ok(())
    }

    fn unicode(&mut self, pos: Pos, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let count = if self.peek() == Some(b'U') { 8 } else { 4 };
        self.bump();
        let mut point = self.exact_hex(pos, count)?;
        // JSON writes characters beyond the basic plane as two halves.
        if (0xD800..0xDC00).contains(&point) && self.text[self.at..].starts_with(b"\\u") {
            self.bump();
            self.bump();
            let low = self.exact_hex(pos, 4)?;
            if !(0xDC00..0xE000).contains(&low) {
                return Err(bad_escape(pos, "is half of a surrogate pair"));
            }
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        }
        let character = char::from_u32(point).ok_or_else(|| bad_escape(pos, "is no Unicode character"))?;
        bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn exact_hex(&mut self, pos: Pos, count: usize) -> Result<u32, SyntaxError> {
        let before = self.at;
        let value = self.digits(16, count);
        if self.at - before != count {
            return Err(bad_escape(pos, "has too few hexadecimal digits"));
        }
        Ok(value)
    }

    /// Up to `most` (at most 8) digits.
    fn digits(&mut self, radix: u32, most: usize) -> u32 {
        let mut value = 0u32;
        for _ in 0..most {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(radix)) else { break };
            value = value.wrapping_mul(radix) | digit;
            self.bump();
        }
        value
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let found = match std::str::from_utf8(&self.text[self.at..]).ok().and_then(|rest| rest.chars().next())
        {
            Some(found) if found.is_control() => format!("found `{}`", found.escape_debug()),
            Some(found) => format!("found `{found}`"),
            None => "the text ends".to_owned(),
        };
        self.error(format!("{found} where {wanted} should be"))
    }
}

fn bad_escape(pos: Pos, what: &str) -> SyntaxError {
    SyntaxError { pos, problem: format!("this escape {what}").into() }
}

fn number(digits: &str, negative: bool) -> Option<Kind> {
    let lower = digits.to_ascii_lowercase();
    let magnitude = if let Some(hex) = lower.strip_prefix("0x") {
        Some(u64::from_str_radix(hex, 16).ok()?)
    } else if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|byte| byte.is_ascii_digit()) {
        Some(u64::from_str_radix(&lower, 8).ok()?)
    } else {
        lower.parse::<u64>().ok().filter(|_| !lower.starts_with('+'))
    };
    if let Some(magnitude) = magnitude {
        let value = i128::from(magnitude);
        return Some(Kind::Int(if negative { -value } else { value }));
    }
    let value: f64 = match lower.as_str() {
        "inf" | "infinity" => f64::INFINITY,
        "nan" => f64::NAN,
        _ => {
            let plain = lower.strip_suffix('f').unwrap_or(&lower);
            if !plain.bytes().any(|byte| byte.is_ascii_digit()) || plain.contains("inf") {
                return None;
            }
            plain.parse().ok()?
        }
    };
    Some(Kind::Float(if negative { -value } else { value }))
}

#[cfg(test)]
#[path = "pbtxt_tests.rs"]
mod tests;
