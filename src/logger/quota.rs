//! Which of a stream's files have to go for the sake of a new one.

use crate::model::Segment;

/// What is to be removed of `kept`, the files of one stream of one worker over all its runs, so that `next` can be begun
/// and there are `most` at the most.
///
/// The oldest go first. The last file of the run before stays as long as there is room for two: how a run ended is told
/// there, and a next one that floods must not wash that away.
pub(super) fn too_many(mut kept: Vec<Segment>, next: Segment, most: u32) -> Vec<Segment> {
    kept.retain(|segment| segment.stream == next.stream && *segment != next);
    kept.sort_unstable();
    kept.dedup();
    let room = usize::try_from(most).unwrap_or(usize::MAX).max(1) - 1;
    let excess = kept.len().saturating_sub(room);
    let last_of_previous = kept.iter().rev().find(|segment| segment.run < next.run).copied().filter(|_| room > 0);
    kept.into_iter().filter(|segment| Some(*segment) != last_of_previous).take(excess).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Stream;

    fn out(run: u32, number: u32) -> Segment {
        Segment { run, stream: Stream::Stdout, number }
    }

    #[test]
    fn nothing_goes_while_there_is_room() {
        assert_eq!(too_many(vec![out(1, 0), out(1, 1)], out(1, 2), 3), []);
        assert_eq!(too_many(vec![], out(1, 0), 2), []);
    }

    #[test]
    fn the_oldest_go_first_over_all_runs() {
        let kept = vec![out(2, 0), out(1, 1), out(2, 1), out(1, 0)];
        assert_eq!(too_many(kept, out(3, 0), 3), [out(1, 0), out(1, 1)]);
    }

    #[test]
    fn a_flood_leaves_the_end_of_the_run_before() {
        let kept = vec![out(6, 0), out(7, 3), out(7, 4), out(8, 0), out(8, 1)];
        assert_eq!(too_many(kept, out(8, 2), 3), [out(6, 0), out(7, 3), out(8, 0)]);
        assert_eq!(too_many(vec![out(7, 4), out(8, 2)], out(8, 3), 2), [out(8, 2)]);
    }

    #[test]
    fn the_other_stream_is_counted_for_itself() {
        let err = Segment { run: 1, stream: Stream::Stderr, number: 0 };
        assert_eq!(too_many(vec![err, out(1, 0)], out(2, 0), 2), []);
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_allowed_and_never_fewer_than_have_to_be(
            runs in proptest::collection::btree_set((1_u32..6, 0_u32..6), 0..20),
            most in 2_u32..8,
        ) {
            let kept: Vec<Segment> = runs.iter().map(|(run, number)| out(*run, *number)).collect();
            let next = out(6, 0);
            let gone = too_many(kept.clone(), next, most);
            prop_assert_eq!(kept.len() - gone.len(), kept.len().min(most as usize - 1));
            prop_assert!(kept.last().is_none_or(|newest| !gone.contains(newest)));
        }
    }
}
