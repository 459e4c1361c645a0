//! Sequences that stop growing at a limit while they are decoded, so that a frame
//! of tiny records cannot become an enormous vector.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_bytes::ByteBuf;

use crate::v3::Xattr;

/// Most records that one frame may carry. Writers put at most
/// [`RECORDS_PER_FRAME`](crate::RECORDS_PER_FRAME) into one.
pub const MAX_RECORDS_PER_FRAME: usize = 1 << 16;

/// Most components in one path: 64 Ki directories deep, 16 MiB of names.
pub const MAX_COMPONENTS: usize = 1 << 16;

/// Most components in all the paths of one frame. A writer closes a frame at 4 MiB
/// of names and 8 bytes a component, after at most one path more: below 600,000. A
/// component that is a byte or two in a payload is some fifty in memory.
pub const MAX_COMPONENTS_PER_FRAME: usize = 1 << 20;

thread_local! {
    /// Components that the frame which this thread decodes may still have.
    static COMPONENTS_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// While it lives, this thread decodes one frame.
pub(crate) struct OneFrame(());

impl OneFrame {
    pub(crate) fn begin() -> Self {
        COMPONENTS_LEFT.set(Some(MAX_COMPONENTS_PER_FRAME));
        OneFrame(())
    }
}

impl Drop for OneFrame {
    fn drop(&mut self) {
        COMPONENTS_LEFT.set(None);
    }
}

/// Elements that are set aside before the first one has been decoded.
pub(crate) const INITIAL_CAPACITY: usize = 4096;

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let hint = seq.size_hint().unwrap_or(0);
        if hint > MAX {
            return Err(A::Error::invalid_length(hint, &self));
        }
        let mut out = Vec::with_capacity(hint.min(INITIAL_CAPACITY));
        while let Some(element) = seq.next_element()? {
            if out.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            out.push(element);
        }
        Ok(out)
    }
}

/// Most extended attributes of one object; Linux lists no more than 64 KiB of names.
pub(crate) const MAX_XATTRS: usize = 1 << 12;

/// Takes `n` pieces off what one frame may have of them.
fn take<E: Error>(n: usize) -> Result<(), E> {
    if let Some(left) = COMPONENTS_LEFT.get() {
        let left = left.checked_sub(n).ok_or_else(|| {
            E::custom(format_args!(
                "more than {MAX_COMPONENTS_PER_FRAME} path components in one frame"
            ))
        })?;
        COMPONENTS_LEFT.set(Some(left));
    }
    Ok(())
}

/// The extended attributes of one object, at most [`MAX_XATTRS`]; each counts as a
/// path component in what one frame may have.
pub(crate) fn xattrs<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Xattr>, D::Error> {
    let xattrs = d.deserialize_seq(BoundedVisitor::<Xattr, MAX_XATTRS>(PhantomData))?;
    take::<D::Error>(xattrs.len())?;
    Ok(xattrs)
}

/// The components of a path, at most [`MAX_COMPONENTS`], and with the frame's other
/// paths at most [`MAX_COMPONENTS_PER_FRAME`].
pub(crate) fn components<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<ByteBuf>, D::Error> {
    let components = d.deserialize_seq(BoundedVisitor::<ByteBuf, MAX_COMPONENTS>(PhantomData))?;
    take::<D::Error>(components.len())?;
    Ok(components)
}

/// The records of one frame, at most [`MAX_RECORDS_PER_FRAME`].
pub(crate) struct Records<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Records<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(BoundedVisitor::<T, MAX_RECORDS_PER_FRAME>(PhantomData))
            .map(Records)
    }
}
