//! Whatever is read: no panic, and every finding has a place in the text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use penstock_model::finding::{Code, Finding};
use penstock_model::{Source, compile, compile_proxy};
use proptest::prelude::*;

/// Compiles `text` in both ways and checks what can be said of any text.
fn check(text: &str) -> Result<(), TestCaseError> {
    let sources = [Source { file: "a.yaml".to_owned(), text: text.to_owned() }];
    let compiled = compile(&sources);
    if let Ok(compiled) = &compiled {
        prop_assert_eq!(&compile(&sources).unwrap(), compiled, "the same documents mean the same");
    }
    let settings = compile_proxy(&sources, Path::new("/etc")).map(|(_, warnings)| warnings);
    for findings in
        [compiled.map_or_else(|findings| findings, |c| c.warnings), settings.unwrap_or_else(|f| f)]
    {
        let places: Vec<_> = findings.iter().map(|finding| (finding.at.line, finding.at.column)).collect();
        prop_assert!(places.is_sorted(), "{places:?}");
        for finding in &findings {
            place(finding, text)?;
        }
    }
    Ok(())
}

fn place(finding: &Finding, text: &str) -> Result<(), TestCaseError> {
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
    prop_assert!(finding.at.line >= 1 && finding.at.line as usize <= lines, "{:?}\n{}", finding, text);
    prop_assert!(finding.at.column >= 1, "{:?}\n{}", finding, text);
    prop_assert!(!finding.message.is_empty() && !finding.help.is_empty());
    prop_assert!(finding.to_string().contains(finding.code.entry().code));
    Ok(())
}

/// Inputs of all goldens.
static INPUTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let input =
        |path| fs::read_to_string(path).unwrap().split("\n----------").next().unwrap().to_owned() + "\n";
    paths.into_iter().map(input).collect()
});

const TOKENS: [&str; 56] = [
    "\n",
    "\n  ",
    "\n    ",
    " ",
    "- ",
    ": ",
    ":",
    "? ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "\"",
    "'",
    "#",
    " # ",
    "&a ",
    "*a",
    "!!str ",
    "|\n",
    ">-\n",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\t",
    "\r",
    "\r\n",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\0",
    "\\",
    "\\u00",
    "<<",
    "~",
    "null",
    "true",
    "1",
    "1.5",
    "99999999999999999999",
    ".nan",
    "é",
    "🙂",
    "apiVersion",
    "kind",
    "HTTPRoute",
    "Backend",
    "penstock.dev/v1alpha1",
    "metadata",
    "name",
    "spec",
    "endpoints",
    "address",
    "10.0.0.1",
    "port",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn token_soup_does_no_harm(tokens in prop::collection::vec(prop::sample::select(TOKENS.to_vec()), 0..40)) {
        check(&tokens.concat())?;
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn damaged_documents_do_no_harm(
        input in any::<prop::sample::Index>(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, prop::sample::select(TOKENS.to_vec())), 1..4),
    ) {
        let mut chars: Vec<char> = input.get(&INPUTS).chars().collect();
        for (at, length, token) in cuts {
            let at = at.index(chars.len().max(1)).min(chars.len());
            let end = (at + length).min(chars.len());
            chars.splice(at..end, token.chars());
        }
        check(&chars.into_iter().collect::<String>())?;
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let laughs = (1..10).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        text + &format!("a{n}: &a{n} [{aliases}]\n")
    });
    for (text, code) in [
        ("# ".to_owned() + &"x".repeat(8 << 20), Code::FileTooLarge),
        (laughs, Code::TooManyValues),
        ("a: 1\n---\n".repeat(10_001), Code::TooManyValues),
        ("[".repeat(200), Code::TooDeep),
        ("[".repeat(1 << 20), Code::YamlSyntax),
        ("- ".repeat(1 << 16), Code::TooDeep),
    ] {
        let findings = compile(&[Source { file: "a.yaml".to_owned(), text }]).unwrap_err();
        assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), [code], "{findings:?}");
    }
}

#[test]
fn findings_of_several_files_are_in_order() {
    let source = |file: &str, text: &str| Source { file: file.to_owned(), text: text.to_owned() };
    let findings = compile(&[
        source("b.yaml", "kind: X\n---\nkind: Y\n"),
        source("a.yaml", "kind: Z\n"),
        source("c.yaml", "["),
    ])
    .unwrap_err();
    let places: Vec<String> = findings.iter().map(|f| format!("{}:{}", f.at.file, f.at.line)).collect();
    assert_eq!(places, ["a.yaml:1", "b.yaml:1", "b.yaml:3", "c.yaml:1"]);
}
