//! From a path to the disk whose `io.max` governs it. The kernel wants MAJ:MIN of the *whole* disk; for a partition it
//! says ENODEV, and for a file system without a device of its own there is nothing it could govern.

use std::{fmt, os::unix::fs::FileTypeExt, path::Path};

use crate::model::{Stage, StartError};

/// A block device, as `io.max` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The disk that `path` (a file, a directory or a block device) is on.
///
/// # Errors
/// Stage `limit`: the path is missing, or its file system has no single disk (tmpfs, overlay, btrfs, NFS).
pub fn of_path(path: &Path) -> Result<Disk, StartError> {
    let what = || format!("io.max of {}", path.display());
    let os = |e: &std::io::Error| StartError::os(Stage::Limit, what(), e.raw_os_error().unwrap_or(0));
    let meta = std::fs::metadata(path).map_err(|e| os(&e))?;
    let dev = {
        use std::os::unix::fs::MetadataExt;
        if meta.file_type().is_block_device() { meta.rdev() } else { meta.dev() }
    };
    let disk = Disk { major: rustix::fs::major(dev), minor: rustix::fs::minor(dev) };
    if disk.major == 0 {
        let fs = rustix::fs::statfs(path).map_or("it", |s| name_of_fs(u64::try_from(s.f_type).unwrap_or(0)));
        return Err(StartError::refused(
            Stage::Limit,
            format!(
                "{} is impossible: {fs} has no disk of its own that the kernel could throttle; name a path on a disk, \
                 or the block device itself (/dev/…)",
                what()
            ),
        ));
    }
    whole(Path::new("/sys/dev/block"), disk).map_err(|e| os(&e))
}

/// The disk that `device` is, or is a partition of. `sys` is `/sys/dev/block`.
fn whole(sys: &Path, device: Disk) -> std::io::Result<Disk> {
    let here = std::fs::canonicalize(sys.join(device.to_string()))?;
    if !here.join("partition").exists() {
        return Ok(device);
    }
    let parent = here.parent().unwrap_or(&here).join("dev");
    let text = std::fs::read_to_string(parent)?;
    let numbers = text
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some(Disk { major: major.parse().ok()?, minor: minor.parse().ok()? }));
    numbers.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
}

/// Names of file systems whose files are on an anonymous device (statfs(2)).
fn name_of_fs(magic: u64) -> &'static str {
    match magic {
        0x0102_1994 => "a tmpfs",
        0x794c_7630 => "an overlay file system",
        0x9123_683e => "btrfs (it spans devices)",
        0x6969 => "NFS",
        0x2fc1_2fc1 => "ZFS",
        0x6573_5546 => "a FUSE file system",
        0x0102_1997 => "a 9p file system",
        0x9fa0 => "procfs",
        0x6265_6572 => "sysfs",
        _ => "its file system",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_stands_for_its_whole_disk() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = tmp.path().join("devices/pci/block/sda");
        std::fs::create_dir_all(disk.join("sda3")).unwrap();
        std::fs::write(disk.join("dev"), "8:16\n").unwrap();
        std::fs::write(disk.join("sda3/dev"), "8:19\n").unwrap();
        std::fs::write(disk.join("sda3/partition"), "3\n").unwrap();
        let sys = tmp.path().join("dev-block");
        std::fs::create_dir(&sys).unwrap();
        symlink(disk.join("sda3"), sys.join("8:19")).unwrap();
        symlink(&disk, sys.join("8:16")).unwrap();

        let whole_disk = Disk { major: 8, minor: 16 };
        assert_eq!(whole(&sys, Disk { major: 8, minor: 19 }).unwrap(), whole_disk);
        assert_eq!(whole(&sys, whole_disk).unwrap(), whole_disk);
        assert!(whole(&sys, Disk { major: 9, minor: 0 }).is_err());
    }

    #[test]
    fn a_file_system_without_a_disk_is_refused_by_name() {
        let err = of_path(Path::new("/proc")).unwrap_err();
        assert_eq!((err.stage, err.errno), (Stage::Limit, 0));
        assert!(err.what.starts_with("io.max of /proc is impossible: procfs has no disk"), "{err}");
    }

    #[test]
    fn a_missing_path_is_named() {
        let err = of_path(Path::new("/no/such/place")).unwrap_err();
        assert_eq!(err.to_string(), "limit io.max of /no/such/place: No such file or directory");
    }
}
