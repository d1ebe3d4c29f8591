//! A metric as tables name it: `name`, or `name{label=value,...}` for those of its series that have these labels.

use super::defect::SpecDefect;

/// A metric, or some series of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec<'a> {
    /// Its name.
    pub(super) name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
}

impl<'a> Spec<'a> {
    /// Reads `name{label=value,...}`. Values may stand in quotes.
    pub(super) fn parse(text: &'a str) -> Result<Self, SpecDefect> {
        let wrong = |problem| SpecDefect { text: text.to_owned(), problem };
        let (name, labels) = match text.split_once('{') {
            None => (text, None),
            Some((name, rest)) => match rest.trim_end().strip_suffix('}') {
                Some(labels) => (name, Some(labels)),
                None => return Err(wrong("the brace is not closed")),
            },
        };
        let name = name.trim();
        if !is_name(name, b":_") {
            return Err(wrong("it begins with no name"));
        }
        let labels = labels.filter(|labels| !labels.trim().is_empty());
        let pair = |written: &'a str| {
            let (label, value) = written.split_once('=').ok_or_else(|| wrong("a label has no value"))?;
            let (label, value) = (label.trim(), value.trim());
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            if !is_name(label, b"_") {
                return Err(wrong("a label has no name"));
            }
            if value.contains(['"', '{', '}', '\\']) {
                return Err(wrong("a label's value has quotes, braces or a backslash"));
            }
            Ok((label, value))
        };
        let labels = labels.into_iter().flat_map(|labels| labels.split(',')).map(pair);
        Ok(Self { name, labels: labels.collect::<Result<_, _>>()? })
    }

    /// Whether a series of this name is meant. An absent label is an empty one, as in Prometheus.
    pub(super) fn takes(&self, labels: &[(&str, &str)]) -> bool {
        self.labels.iter().all(|&(wanted, value)| {
            labels.iter().find(|(label, _)| *label == wanted).map_or("", |(_, value)| *value) == value
        })
    }

    /// Whether a line's name is this one. Exporters that may not write colons write underscores.
    pub(super) fn is_named(&self, name: &[u8]) -> bool {
        let same = |(&a, &b): (&u8, &u8)| a == b || a == b':' && b == b'_';
        name.len() == self.name.len() && self.name.as_bytes().iter().zip(name).all(same)
    }
}

fn is_name(text: &str, signs: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || signs.contains(byte);
    text.as_bytes().first().is_some_and(letter)
        && text.bytes().all(|byte| letter(&byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_written_as_a_name_and_labels() {
        for (text, name, labels) in [
            ("tgi_queue_size", "tgi_queue_size", &[][..]),
            ("vllm:x{}", "vllm:x", &[]),
            ("a{b=c}", "a", &[("b", "c")]),
            ("a{b=\"c\", d = e }", "a", &[("b", "c"), ("d", "e")]),
            ("a{priority=}", "a", &[("priority", "")]),
        ] {
            let spec = Spec::parse(text).unwrap();
            assert_eq!((spec.name, &spec.labels[..]), (name, labels), "{text}");
        }
    }

    #[test]
    fn what_is_no_metric_is_refused_with_the_reason() {
        for (text, problem) in [
            ("", "it begins with no name"),
            ("{a=b}", "it begins with no name"),
            ("9a", "it begins with no name"),
            ("a b", "it begins with no name"),
            ("a{b=c", "the brace is not closed"),
            ("a{b}", "a label has no value"),
            ("a{b=c,}", "a label has no value"),
            ("a{=c}", "a label has no name"),
            ("a{b:c=d}", "a label has no name"),
            ("a{b=c}d}", "a label's value has quotes, braces or a backslash"),
            ("a{b=\"c}", "a label's value has quotes, braces or a backslash"),
        ] {
            let defect = Spec::parse(text).unwrap_err();
            assert_eq!((defect.text.as_str(), defect.problem), (text, problem));
        }
    }

    #[test]
    fn series_are_taken_by_all_labels_that_are_written() {
        let spec = Spec::parse("a{kind=waiting,priority=}").unwrap();
        for (labels, taken) in [
            (&[("kind", "waiting")][..], true),
            (&[("model", "m"), ("priority", ""), ("kind", "waiting")], true),
            (&[("kind", "waiting"), ("priority", "3")], false),
            (&[("kind", "running")], false),
            (&[], false),
        ] {
            assert_eq!(spec.takes(labels), taken, "{labels:?}");
        }
    }
}
