//! The items of a list, before they are sealed or opened.

use keyfold_core::secret::wipe;
use pyo3::{
    intern,
    prelude::*,
    pybacked::PyBackedStr,
    types::{PyBytes, PyList, PyString},
};

use crate::{
    arguments::{Given, Value},
    failure::Failure,
};

pub(crate) enum Items {
    /// Texts in one buffer, and where each ends. An object of Python's for each, which is made here, read by another core
    /// and dropped here, would cost as much as a third of an open.
    Joined(Texts, Vec<usize>),
    /// Each as what it is, or why it is none.
    Each(Vec<Result<Given, Failure>>),
}

/// Wiped when dropped: what is to be sealed stands in it.
#[derive(Default)]
pub(crate) struct Texts(String);

impl Drop for Texts {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_bytes());
    }
}

/// How many texts Python joins at a time: few, so that the memory for it is used again and again.
const JOINED: usize = 32;

impl Items {
    /// What Python can iterate.
    pub(crate) fn of(items: &Bound<'_, PyAny>) -> Result<Self, Failure> {
        // A single str or bytes is a sequence to Python, and never what is meant.
        if items.is_instance_of::<PyString>() || items.is_instance_of::<PyBytes>() {
            return Err(Failure::type_error("a list of str or bytes is needed, not a single one"));
        }
        let items = items.py().get_type::<PyList>().call1((items,))?.cast_into::<PyList>().map_err(PyErr::from)?;
        Ok(Self::joined(&items).unwrap_or_else(|| Self::Each(items.iter().map(|item| Given::of(&item)).collect())))
    }

    /// `None` where an item is no text, or has a NUL of its own, which is what is put between them.
    fn joined(items: &Bound<'_, PyList>) -> Option<Self> {
        let (py, count) = (items.py(), items.len());
        let (mut texts, mut ends) = (Texts::default(), Vec::with_capacity(count));
        let all = &mut texts.0;
        for first in (0..count).step_by(JOINED) {
            let some = items.get_slice(first, first + JOINED);
            let text = intern!(py, "\0").call_method1(intern!(py, "join"), (&some,)).ok()?;
            let text = PyBackedStr::try_from(text.cast_into::<PyString>().ok()?).ok()?;
            if first == 0 {
                // The others are likely to be as long, and room that is not needed is not touched.
                all.reserve((text.len() + 1) * count.div_ceil(JOINED) * 9 / 8);
            }
            ends.extend(memchr::memchr_iter(0, text.as_bytes()).map(|end| all.len() + end));
            all.push_str(&text);
            ends.push(all.len());
            all.push('\0');
            if ends.len() != first + some.len() {
                return None;
            }
        }
        Some(Self::Joined(texts, ends))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Joined(_, ends) => ends.len(),
            Self::Each(items) => items.len(),
        }
    }

    /// An item, or `None` where it is none.
    pub(crate) fn at(&self, index: usize) -> Option<Value<'_>> {
        match self {
            Self::Joined(text, ends) => {
                let start = if index == 0 { 0 } else { ends[index - 1] + 1 };
                Some(Value::Text(&text.0[start..ends[index]]))
            }
            Self::Each(items) => items[index].as_ref().ok().map(Given::value),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Value<'_>> {
        (0..self.len()).filter_map(|index| self.at(index))
    }

    /// For each item why it is none, if so.
    pub(crate) fn refused(self) -> impl Iterator<Item = Option<Failure>> {
        let items = if let Self::Each(items) = self { items } else { Vec::new() };
        items.into_iter().map(Result::err).chain(std::iter::repeat_with(|| None))
    }
}
