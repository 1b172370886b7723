//! Kernel settings under /proc/sys, of the calling thread's network namespace.

use std::{fs, path::Path};

use crate::error::SysctlError;

/// Reads a setting, without the line end.
pub fn get(name: &str) -> Result<String, SysctlError> {
    fs::read_to_string(Path::new("/proc/sys").join(name))
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| SysctlError { name: name.to_owned(), value: "(reading)".to_owned(), source })
}

/// Sets a setting unless it already has that value, so that a read-only /proc/sys that is right is no error.
pub fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    if get(name).is_ok_and(|now| now == value) {
        return Ok(());
    }
    fs::write(Path::new("/proc/sys").join(name), value).map_err(|source| SysctlError {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// A setting of one device: `family` is `ipv4` or `ipv6`.
pub fn set_device(family: &str, device: &str, key: &str, value: &str) -> Result<(), SysctlError> {
    set(&format!("net/{family}/conf/{device}/{key}"), value)
}

/// No check that replies would leave by the device a packet came in at: pods are routed by the programs.
pub fn no_reverse_path_filter(device: &str) -> Result<(), SysctlError> {
    set_device("ipv4", device, "rp_filter", "0")
}

/// Whether this kernel has IPv6.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}
