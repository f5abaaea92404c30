// SPDX-License-Identifier: Apache-2.0
//! Tests of the text format parser: values, positions, limits, and any bytes at all.

use proptest::prelude::*;

use super::*;

fn only(text: &str) -> Value {
    let mut message = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(message.fields.len(), 1, "{text}");
    message.fields.remove(0).value
}

fn problem(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn reads_every_kind_of_value() {
    let table = [
        ("a: 5", Kind::Int(5)),
        ("a: -5", Kind::Int(-5)),
        ("a: - 5", Kind::Int(-5)),
        ("a: 0x1F", Kind::Int(31)),
        ("a: 017", Kind::Int(15)),
        ("a: 0", Kind::Int(0)),
        ("a: 18446744073709551615", Kind::Int(u64::MAX.into())),
        ("a: 1.5", Kind::Float(1.5)),
        ("a: 1.5f", Kind::Float(1.5)),
        ("a: .5", Kind::Float(0.5)),
        ("a: 2e-3", Kind::Float(0.002)),
        ("a: -inf", Kind::Float(f64::NEG_INFINITY)),
        ("a: 18446744073709551616", Kind::Float(18_446_744_073_709_551_616.0)),
        ("a: TYPE_FP32", Kind::Word("TYPE_FP32".into())),
        ("a: true", Kind::Word("true".into())),
        ("a: \"x\"", Kind::Text("x".into())),
        ("a: 'x' \"y\" # c\n 'z'", Kind::Text("xyz".into())),
        (r#"a: "\n\t\\\"\x41\101\u00e9\U0001F600""#, Kind::Text("\n\t\\\"AAé😀".into())),
        (r#"a: "\ud83d\ude00""#, Kind::Text("😀".into())),
        (r#"a: "\xc3\xa9""#, Kind::Text("é".into())),
        ("a: []", Kind::List(vec![])),
        ("a {}", Kind::Message(Message::default())),
        ("a: < >", Kind::Message(Message::default())),
    ];
    for (text, kind) in table {
        assert_eq!(only(text).kind, kind, "{text}");
    }
    assert!(matches!(only("a: nan").kind, Kind::Word(word) if &*word == "nan"));
}

#[test]
fn knows_where_everything_stands() {
    let text = "name: \"m\"\n# é\ninput [\n  { name: 'x' dims: [ -1, 3 ] },\n  { é: 1 }\n]";
    // `é` is no field name, and the error counts characters.
    assert_eq!(problem(text), "5:5: found `é` where a field name should be");
    let message = parse(&text.replace("{ é: 1 }", "{ b < c: 1; > }")).unwrap();
    let names: Vec<_> = message.fields.iter().map(|field| (&*field.name, field.pos.to_string())).collect();
    assert_eq!(names, [("name", "1:1".to_owned()), ("input", "3:1".to_owned())]);
    let Kind::List(inputs) = &message.fields[1].value.kind else { panic!("a list") };
    assert_eq!(inputs[0].pos.to_string(), "4:3");
    let Kind::Message(input) = &inputs[0].kind else { panic!("a message") };
    assert_eq!(input.fields[1].pos.to_string(), "4:15");
    let Kind::List(dims) = &input.fields[1].value.kind else { panic!("a list") };
    assert_eq!((dims[0].pos.to_string(), dims[1].pos.to_string()), ("4:23".to_owned(), "4:27".to_owned()));
}

#[test]
fn names_the_mistake_and_its_place() {
    let table = [
        ("a", "1:2: the text ends where `:` or a message after the field `a` should be"),
        ("a b", "1:3: found `b` where `:` or a message after the field `a` should be"),
        ("a: ", "1:4: the text ends where a value should be"),
        ("a: [1 2]", "1:7: found `2` where `,` or `]` should be"),
        ("a {\n b: 1", "2:6: the text ends and `}` is missing"),
        ("a { b: 1 >", "1:10: found `>` where a field name should be"),
        ("x: 1\n}", "2:1: found `}` where a field name should be"),
        ("a: \"x\nb: 1", "1:4: the string that begins here has no closing quote on its line"),
        (r#"a: "\q""#, "1:5: this escape is unknown; write `\\\\` for a backslash"),
        (r#"a: "\xff""#, "1:4: the escapes of this string make bytes that are not UTF-8"),
        (r#"a: "\777""#, "1:5: this escape is above 255"),
        (r#"a: "\ud800""#, "1:5: this escape is no Unicode character"),
        (r#"a: "\u12""#, "1:5: this escape has too few hexadecimal digits"),
        ("a: 12x", "1:4: `12x` is no number"),
        ("a: 089", "1:4: `089` is no number"),
        ("a: 1.2.3", "1:4: `1.2.3` is no number"),
        ("a: -", "1:4: `-` is no number"),
        ("[x.y] { }", "1:1: extensions and `Any` in brackets are not supported here"),
        ("\"a\": 1", "1:1: found `\"` where a field name should be"),
        ("{\"a\": 1} b", "1:10: something follows the closing `}`"),
    ];
    for (text, expected) in table {
        assert_eq!(problem(text), expected, "{text}");
    }
    let bad = parse_bytes(b"a: 1\n  \xff").unwrap_err();
    assert_eq!(bad.to_string(), "2:3: the byte 0xff is not UTF-8");
}

#[test]
fn takes_the_json_form() {
    let json = parse(r#" {"name": "m", "input": [{"dims": [-1, "3"]}], "x": null, "on": true} "#).unwrap();
    let text = parse(r#"name: "m" input: [ { dims: [-1, "3"] } ] on: true"#).unwrap();
    let names = |message: &Message| message.fields.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&json), names(&text));
}

#[test]
fn refuses_what_is_too_deep_too_many_or_too_long() {
    let deep = "a{".repeat(100_000);
    assert!(problem(&deep).ends_with("nested deeper than 24 levels"), "{}", problem(&deep));
    assert!(problem(&format!("a: {}", "[".repeat(100_000))).contains("deeper"));
    assert!(problem(&"a:1 ".repeat(CONFIG_NODES_MAX)).contains("more than 65536"));
    assert!(problem(&" ".repeat(CONFIG_BYTES_MAX + 1)).contains("the limit is 1048576"));
}

fn print(message: &Message) -> String {
    fn value(out: &mut String, kind: &Kind) {
        match kind {
            Kind::Message(inner) => out.push_str(&format!("{{ {} }}", print(inner))),
            Kind::List(values) => {
                out.push('[');
                for (index, item) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    value(out, &item.kind);
                }
                out.push(']');
            }
            Kind::Text(text) => {
                out.push('"');
                text.bytes().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
                out.push('"');
            }
            Kind::Int(int) => out.push_str(&int.to_string()),
            Kind::Float(float) => out.push_str(&format!("{float:e}")),
            Kind::Word(word) => out.push_str(word),
        }
    }
    let mut out = String::new();
    for field in &message.fields {
        out.push_str(&field.name);
        out.push_str(": ");
        value(&mut out, &field.value.kind);
        out.push('\n');
    }
    out
}

/// The tree without its positions, which printing changes.
fn bare(message: &Message) -> String {
    print(message)
}

fn kinds() -> impl Strategy<Value = Kind> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|int| Kind::Int(int.into())),
        "\\PC{0,12}".prop_map(|text| Kind::Text(text.into())),
        "[A-Z_][A-Z0-9_]{0,8}".prop_map(|word| Kind::Word(word.into())),
    ];
    let pos = Pos { line: 1, column: 1 };
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let list = proptest::collection::vec(inner.clone(), 0..5)
            .prop_map(move |kinds| Kind::List(kinds.into_iter().map(|kind| Value { pos, kind }).collect()));
        let message = proptest::collection::vec(("[a-z_]{1,8}", inner), 0..5).prop_map(move |fields| {
            let field =
                |(name, kind): (String, Kind)| Field { name: name.into(), pos, value: Value { pos, kind } };
            Kind::Message(Message { fields: fields.into_iter().map(field).collect() })
        });
        prop_oneof![list, message]
    })
}

proptest! {
    #[test]
    fn round_trip(kind in kinds()) {
        let pos = Pos { line: 1, column: 1 };
        let message = Message { fields: vec![Field { name: "root".into(), pos, value: Value { pos, kind } }] };
        let text = print(&message);
        prop_assert_eq!(bare(&parse(&text).unwrap()), text);
    }

    #[test]
    fn any_bytes_give_a_tree_or_an_error_inside_the_text(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = parse_bytes(&bytes) {
            let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
            prop_assert!((1..=lines).contains(&(error.pos.line as usize)));
        }
    }

    #[test]
    fn any_text_of_its_own_tokens_never_panics(text in r#"([a-z]|[0-9]|[{}<>\[\],;:#"'\\. \n+-]|0x|\\u|\\x|e[+-]){0,60}"#) {
        let _ = parse(&text);
        let _ = parse(&format!("{{{text}"));
    }
}
