//! Budgets that workers share, as they are written.

use std::borrow::Cow;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    ID_PATTERN, Id,
    limits::{MAX_IOPS, PID_MAX_LIMIT},
};
use crate::{
    model::{SliceName, WorkerId},
    spec::{
        declare::record,
        decode::{Cx, Decode, Field, FromWord, List, Shape, Word, Wrong},
        problem::{Place, shown},
        quantity::{Share, Size, Time},
        tree::Node,
        units::{AbsPath, Int, Number, OrMax},
    },
};

record! {
    /// A budget that the workers in it share, each still within its own limits. Without a key there is no such limit.
    Slice {
        /// Memory of all of them together.
        memory: SliceMemory,
        /// Processor time of all of them together.
        cpu: SliceCpu,
        /// Processes and threads of all of them together.
        pids: SlicePids,
        /// Disk traffic of all of them together, by device.
        io: List<SliceIo>,
    }
}

record! {
    /// Memory of a slice.
    SliceMemory {
        /// The most they may use, at least 1MiB; above it the kernel kills one of them (memory.max). max: no limit.
        max | max_rss: OrMax<Size>,
        /// Where the kernel slows them down: a size or a percentage of max (memory.high).
        high: OrMax<Share>,
        /// The most swap, where max is set (memory.swap.max). Default 0.
        swap_max: OrMax<Size>,
    }
}

record! {
    /// Processor time of a slice.
    SliceCpu {
        /// The most, in percent of one CPU, at least 1 (cpu.max). max: no limit.
        max_percent: OrMax<Number<1, 1_000_000>>,
        /// Its share where CPUs are short, beside other slices and workers without one, 1 to 10000; 100 is usual (cpu.weight).
        weight: Int<1, 10_000>,
        /// Unused time that can be spent later, at most max_percent of 100ms (cpu.max.burst). Default 0.
        burst: Time,
    }
}

record! {
    /// Processes and threads of a slice.
    SlicePids {
        /// The most at once (pids.max). max: no limit.
        max: OrMax<Int<1, PID_MAX_LIMIT>>,
    }
}

record! {
    /// Disk traffic of a slice on one device. At least one rate.
    SliceIo requires [path] {
        /// A path on the device.
        path: AbsPath,
        /// Bytes read a second.
        rbps: Size,
        /// Bytes written a second.
        wbps: Size,
        /// Reads a second.
        riops: Int<1, MAX_IOPS>,
        /// Writes a second.
        wiops: Int<1, MAX_IOPS>,
    }
}

/// A slice's name, where a worker asks for it.
#[derive(Debug, Clone)]
pub(in crate::spec) struct SliceRef(pub(in crate::spec) SliceName);

impl FromWord for SliceRef {
    const WHAT: &'static str = "the name of a slice";
    const LIKE: &'static str = "one of the names under slices";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        SliceName::new(&word.text).map(Self).map_err(|_| Wrong::is("is not the name of a slice"))
    }

    fn name() -> Cow<'static, str> {
        "Name_of_a_slice".into()
    }

    fn schema() -> Schema {
        <Id as FromWord>::schema()
    }
}

/// `slices`: a map, in the order of the file. A slice whose own keys are wrong is still one that a worker can name.
#[derive(Debug, Clone)]
pub(in crate::spec) struct Slices(pub(in crate::spec) Vec<(SliceName, Place, Field<Slice>)>);

impl Decode for Slices {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let mut slices = Vec::new();
        for entry in cx.entries(node, at, &["web: {memory: {max: 2GiB}}"])? {
            let name_at = Place { mark: entry.key_mark, path: at.path.key(&entry.key) };
            if let Ok(name) = SliceName::new(&entry.key) {
                let mut slice = Field::Absent;
                slice.take(entry, at, cx);
                slices.push((name, name_at, slice));
            } else {
                let fix = format!("write {}, with at most {} characters", Id::LIKE, WorkerId::MAX_LEN);
                cx.report.add(&name_at, format!("{} cannot be the name of a slice", shown(&entry.key)), fix);
            }
            if cx.report.full() {
                break;
            }
        }
        Some(Self(slices))
    }

    fn name() -> Cow<'static, str> {
        "Slices".into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let slice = schemas.subschema_for::<Shape<Slice>>();
        json_schema!({ "type": "object", "additionalProperties": slice, "propertyNames": { "pattern": ID_PATTERN } })
    }
}
