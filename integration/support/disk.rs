//! Disks that are full.

use std::{fs, path::PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A small disk in the place of a directory.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn at(place: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&place).unwrap();
        let disk = Self(place);
        disk.mount(MsFlags::empty(), size);
        disk
    }

    fn mount(&self, flags: MsFlags, size: &str) {
        let options = format!("size={size}");
        mount(Some("none"), &self.0, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
    }

    pub(crate) fn grow(&self, size: &str) {
        self.mount(MsFlags::MS_REMOUNT, size);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Where it fails, the removal of the case's directory says so.
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}
