//! Static tables of the paths to read.

use super::Clip;

/// What to read at one place of a document, and below it. `M` names the places to the sink.
#[derive(Clone, Copy)]
pub(crate) struct Shape<M: Copy + 'static> {
    /// The value here is told under this mark.
    pub(super) mark: Option<M>,
    /// Strings and numbers here and below are told as leaves under this mark.
    pub(super) text: Option<M>,
    pub(super) keys: &'static [(&'static str, Shape<M>)],
    pub(super) items: Option<&'static Shape<M>>,
}

impl<M: Copy> Shape<M> {
    /// An object of which these keys are read.
    pub(crate) const fn object(keys: &'static [(&'static str, Shape<M>)]) -> Self {
        Shape { mark: None, text: None, keys, items: None }
    }

    /// An array whose items are read.
    pub(crate) const fn each(items: &'static Shape<M>) -> Self {
        Shape { mark: None, text: None, keys: &[], items: Some(items) }
    }

    /// A value to tell.
    pub(crate) const fn value(mark: M) -> Self {
        Shape { mark: Some(mark), text: None, keys: &[], items: None }
    }

    /// A value to tell, with everything below it told as leaves.
    pub(crate) const fn text(mark: M) -> Self {
        Shape { mark: Some(mark), text: Some(mark), keys: &[], items: None }
    }

    /// Values here and below are told as leaves under this mark, the value itself is not told.
    pub(crate) const fn leaves(mark: M) -> Self {
        Shape { mark: None, text: Some(mark), keys: &[], items: None }
    }

    /// The same, with other marks for these keys.
    pub(crate) const fn but(self, keys: &'static [(&'static str, Shape<M>)]) -> Self {
        Shape { keys, ..self }
    }

    /// The same, with this shape for items.
    pub(crate) const fn with_each(self, items: &'static Shape<M>) -> Self {
        Shape { items: Some(items), ..self }
    }

    /// Containers that must be followed to reach the deepest path.
    #[cfg(test)]
    pub(crate) fn depth(&self) -> usize {
        let keys = self.keys.iter().map(|(_, shape)| 1 + shape.depth());
        let items = self.items.iter().map(|shape| 1 + shape.depth());
        keys.chain(items).max().unwrap_or_default()
    }
}

/// What a shape says of one value of the document.
#[derive(Clone, Copy)]
pub(super) struct Slot<M: Copy + 'static> {
    pub(super) shape: Option<&'static Shape<M>>,
    /// In force here, from this shape or from one above.
    pub(super) text: Option<M>,
}

impl<M: Copy> Slot<M> {
    /// Of the value under `key`. A key that was cut is longer than any in a table. Letter case does not matter: it does not to
    /// decoders written in Go (Ollama's, many gateways'), so `Model` beside `model` would be read as another model there.
    pub(super) fn child(self, key: Clip<'_>) -> Self {
        let keys = self.shape.map_or(&[][..], |shape| shape.keys);
        let found =
            keys.iter().find(|(name, _)| key.whole && name.as_bytes().eq_ignore_ascii_case(key.bytes));
        self.below(found.map(|(_, shape)| shape))
    }

    /// Of an item, if this is an array.
    pub(super) fn item(self) -> Self {
        self.below(self.shape.and_then(|shape| shape.items))
    }

    fn below(self, shape: Option<&'static Shape<M>>) -> Self {
        Slot { shape, text: shape.and_then(|shape| shape.text).or(self.text) }
    }
}
