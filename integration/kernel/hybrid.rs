//! A host whose controllers are bound to cgroup v1: the tree is made all the same, and a limit is refused with the
//! sentence that says who has the controller.

use pinfold::{
    kernel::{cgroup::limits, place::settle},
    model::Stage,
    spec::types::{Limits, Memory, Pids},
};

use crate::fixture::Place;

#[test]
fn a_limit_is_refused_with_the_owner_and_the_fix_and_no_limit_is_fine() {
    let place = Place::new();
    assert!(place.situation.mount.hybrid, "this test needs a host whose controllers are bound to cgroup v1");
    let tree = settle(&place.situation, &place.dir.path().join("root"), false, &[]).unwrap();
    let run = tree.workers.create("web.1").unwrap();
    limits::set(&run, &Limits::default(), &tree.host()).unwrap();

    let memory = Limits { memory: Memory { max: Some(1 << 26), ..Memory::default() }, ..Limits::default() };
    let err = limits::set(&run, &memory, &tree.host()).unwrap_err();
    assert_eq!(err.stage, Stage::Limit);
    let text = err.to_string();
    let expected = "limit: memory.max needs the memory controller, which this host has bound to cgroup v1 (/";
    assert!(text.starts_with(expected), "{text}");
    let fix = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all, or remove the limit";
    assert!(text.ends_with(fix), "{text}");

    let pids = Limits { pids: Pids { max: Some(9), ..Pids::default() }, ..Limits::default() };
    let text = limits::set(&run, &pids, &tree.host()).unwrap_err().to_string();
    assert!(text.starts_with("limit: pids.max needs the pids controller"), "{text}");
    drop(run);
    let home = pinfold::kernel::cgroup::Dir::open(place.dir.path()).unwrap();
    tree.dissolve(&home, &[], true).unwrap();
}
