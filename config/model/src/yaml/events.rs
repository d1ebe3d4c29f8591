//! The pass over the parser's events: where everything is written.
//!
//! Builds one [`Node`] for each value, with its place, and collects what is refused. Memory and time are bounded by the
//! text: an alias shares the node that it repeats, and the size that it stands for is counted against a limit before
//! anybody unfolds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::{Meaning, plain_meaning};
use crate::finding::{Code, Finding};
use crate::source::{Entry, Node, Page, Place, Shape};

/// Lists and maps inside each other. Ours nest to about ten.
const DEPTH_MAX: usize = 64;
/// Values in a file, aliases unfolded.
const NODES_MAX: usize = 1_000_000;
/// Documents in a file.
const DOCUMENTS_MAX: usize = 10_000;

/// The roots of all documents of `text`, empty ones included.
///
/// # Errors
/// Everything that is refused, or the one place where the text is no YAML.
pub(super) fn read(page: &Page, text: &str) -> Result<Vec<Arc<Node>>, Vec<Finding>> {
    let mut builder = Builder {
        page,
        findings: Vec::new(),
        roots: Vec::new(),
        frames: Vec::new(),
        anchors: BTreeMap::new(),
        nodes: 0,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step =
            event.map_err(|error| builder.syntax(&error)).and_then(|(event, span)| builder.take(event, span));
        if let Err(last) = step {
            builder.findings.push(*last);
            break;
        }
    }
    if builder.findings.is_empty() { Ok(builder.roots) } else { Err(builder.findings) }
}

struct Builder<'a> {
    page: &'a Page,
    findings: Vec<Finding>,
    roots: Vec<Arc<Node>>,
    frames: Vec<Frame>,
    anchors: BTreeMap<usize, Arc<Node>>,
    nodes: usize,
}

/// A list or map whose end has not been seen.
struct Frame {
    place: Place,
    anchor: usize,
    size: usize,
    open: Open,
}

enum Open {
    List(Vec<Arc<Node>>),
    Map { entries: Vec<Entry>, seen: BTreeMap<String, Place>, key: Option<(String, Place)> },
}

impl Builder<'_> {
    /// # Errors
    /// With what forbids to read on.
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Box<Finding>> {
        let place = place_of(&span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                if self.roots.len() >= DOCUMENTS_MAX {
                    return Err(self.finding(
                        Code::TooManyValues,
                        place,
                        format!("more than {DOCUMENTS_MAX} documents"),
                    ));
                }
                Ok(())
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    let size = node.size;
                    self.attach(node, place, size)
                }
                None => Err(self.finding(Code::AliasUnusable, place, "an alias inside of what it repeats")),
            },
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), place);
                let plain = style == ScalarStyle::Plain;
                if plain && plain_meaning(&text) == Meaning::UnusableNumber {
                    let finding = self.finding(
                        Code::NumberUnusable,
                        place,
                        format!("`{text}` is no number that fits 64 bits"),
                    );
                    self.findings.push(*finding);
                }
                let shape = Shape::Scalar { text: text.into_owned(), plain };
                self.finish(Node { place, shape, size: 1 }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), place);
                self.open(place, anchor, Open::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), place);
                self.open(place, anchor, Open::Map { entries: Vec::new(), seen: BTreeMap::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn open(&mut self, place: Place, anchor: usize, open: Open) -> Result<(), Box<Finding>> {
        if self.frames.len() >= DEPTH_MAX {
            return Err(self.finding(Code::TooDeep, place, format!("more than {DEPTH_MAX} levels deep")));
        }
        // The parser marks the opening alone; what counts is the rest of the line.
        self.frames.push(Frame { place: Place { width: None, ..place }, anchor, size: 1, open });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Box<Finding>> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let shape = match frame.open {
            Open::List(items) => Shape::List(items),
            Open::Map { entries, .. } => Shape::Map(entries),
        };
        self.finish(Node { place: frame.place, shape, size: frame.size }, frame.anchor)
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Box<Finding>> {
        let node = Arc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        let place = node.place;
        self.attach(node, place, 1)
    }

    /// Puts a finished value where it belongs. `added`: how many values it adds to those already counted.
    fn attach(&mut self, node: Arc<Node>, place: Place, added: usize) -> Result<(), Box<Finding>> {
        self.nodes = self.nodes.saturating_add(added);
        if self.nodes > NODES_MAX {
            return Err(self.finding(Code::TooManyValues, place, format!("more than {NODES_MAX} values")));
        }
        let Some(frame) = self.frames.last_mut() else {
            self.roots.push(node);
            return Ok(());
        };
        frame.size = frame.size.saturating_add(node.size);
        match &mut frame.open {
            Open::List(items) => items.push(node),
            Open::Map { entries, seen, key } => match key.take() {
                None => {
                    let (text, refusal) = key_of(&node);
                    *key = Some((text, place));
                    if let Some((code, message)) = refusal {
                        let finding = self.finding(code, place, message);
                        self.findings.push(*finding);
                    }
                }
                Some((key, key_place)) => match seen.get(&key).copied() {
                    None => {
                        seen.insert(key.clone(), key_place);
                        entries.push(Entry { key, key_place, value: node });
                    }
                    Some(first) => {
                        let finding = self
                            .finding(Code::DuplicateKey, key_place, format!("`{key}` is written twice"))
                            .beside(self.page.location(first, String::new()), "first written here");
                        self.findings.push(finding);
                    }
                },
            },
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tagged: bool, place: Place) {
        if tagged {
            let finding = self.finding(Code::TagRefused, place, "a tag (`!…`)");
            self.findings.push(*finding);
        }
    }

    fn syntax(&self, error: &ScanError) -> Box<Finding> {
        let line = to_u32(error.marker().line()).max(1);
        let column = to_u32(error.marker().col()).saturating_add(1);
        let finding = self.finding(
            Code::YamlSyntax,
            Place { line, column, width: Some(1) },
            format!("not YAML: {}", error.info()),
        );
        let indent = finding.at.excerpt.trim_start_matches(' ');
        if indent.starts_with('\t') {
            return Box::new(finding.with_help("indent with spaces: YAML takes no tabs there"));
        }
        finding
    }

    fn finding(&self, code: Code, place: Place, message: impl Into<String>) -> Box<Finding> {
        Box::new(Finding::new(code, "", self.page.location(place, String::new()), message))
    }
}

/// The text of a key, and why it cannot be one.
fn key_of(node: &Node) -> (String, Option<(Code, String)>) {
    match &node.shape {
        Shape::Scalar { text, plain: true } if text == "<<" => {
            (text.clone(), Some((Code::MergeKey, "a merge key (`<<`)".to_owned())))
        }
        Shape::Scalar { text, plain: true } if plain_meaning(text) != Meaning::Text => {
            (text.clone(), Some((Code::KeyNotText, format!("the key `{text}` is not text"))))
        }
        Shape::Scalar { text, .. } => (text.clone(), None),
        Shape::List(_) | Shape::Map(_) => {
            (String::new(), Some((Code::KeyNotText, "a list or map as key".to_owned())))
        }
    }
}

fn place_of(span: &Span) -> Place {
    let (start, end) = (&span.start, &span.end);
    let width = (start.line() == end.line()).then(|| to_u32(end.col().saturating_sub(start.col())).max(1));
    Place { line: to_u32(start.line()).max(1), column: to_u32(start.col()).saturating_add(1), width }
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
