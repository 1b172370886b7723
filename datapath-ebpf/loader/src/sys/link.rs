//! Links: what ties a program to a hook, and who is at one.

use super::*;

/// The head of `struct bpf_link_info`, read as that of a TCX link.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes)]
#[repr(C)]
pub struct LinkInfo {
    pub kind: u32,
    pub id: u32,
    pub prog_id: u32,
    pub pad: u32,
    /// 0: the device is gone.
    pub ifindex: u32,
    pub attach_type: u32,
}

pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

pub fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(cmd::LINK_GET_FD_BY_ID, &mut Id { id, next: 0, flags: 0 })
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// Attaches an XDP program; `flags` says in which mode.
pub fn link_create_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    bpf_fd(
        cmd::LINK_CREATE,
        &mut LinkCreate {
            prog_fd: raw(program),
            ifindex,
            attach_type: XDP,
            flags,
            relative: 0,
            pad: 0,
            expected_revision: 0,
        },
    )
}

/// Attaches a program behind all others at a TCX hook.
pub fn link_create_tcx(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    bpf_fd(
        cmd::LINK_CREATE,
        &mut LinkCreate {
            prog_fd: raw(program),
            ifindex,
            attach_type,
            flags: 0,
            relative: 0,
            pad: 0,
            expected_revision: 0,
        },
    )
}

/// Attaches a program to a control group, beside those of others.
pub fn link_create_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    bpf_fd(
        cmd::LINK_CREATE,
        &mut LinkCreate {
            prog_fd: raw(program),
            ifindex: raw(cgroup), // `target_fd` of the same place.
            attach_type,
            flags: 0,
            relative: 0,
            pad: 0,
            expected_revision: 0,
        },
    )
}

/// The head of `struct bpf_link_info`, read as that of a link of a control group.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes)]
#[repr(C)]
pub struct CgroupLinkInfo {
    pub kind: u32,
    pub id: u32,
    pub prog_id: u32,
    pub pad: u32,
    cgroup: [u32; 2],
    pub attach_type: u32,
}

impl CgroupLinkInfo {
    /// Number of the group; 0: it is gone.
    pub fn cgroup_id(&self) -> u64 {
        zerocopy::transmute!(self.cgroup)
    }
}

pub fn cgroup_link_info(link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    info(link)
}

/// The id of the link after `id`; `None`: that was the last.
pub fn link_next_id(id: u32) -> io::Result<Option<u32>> {
    let mut attr = Id { id, next: 0, flags: 0 };
    Ok(found(bpf(cmd::LINK_GET_NEXT_ID, &mut attr).map(drop))?.then_some(attr.next))
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link at one instant.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(cmd::LINK_UPDATE, &mut LinkUpdate { link_fd: raw(link), prog_fd: raw(program), flags: 0, old_prog_fd: 0 })
        .map(drop)
}

pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(cmd::LINK_DETACH, &mut MapFd { map_fd: raw(link) }).map(drop)
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// One program at a TCX hook; `link` is 0 where it was attached without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtHook {
    pub program: u32,
    pub link: u32,
}

/// What is attached at a TCX hook, in the order in which it runs. `EINVAL`: the kernel has no TCX.
pub fn tcx_query(ifindex: u32, attach_type: u32) -> io::Result<Vec<AtHook>> {
    const MOST: usize = 64; // BPF_MPROG_MAX
    let (mut programs, mut links) = ([0_u32; MOST], [0_u32; MOST]);
    let mut attr = Query {
        ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: address_mut(programs.as_mut_bytes()),
        count: MOST as u32,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: address_mut(links.as_mut_bytes()),
        link_attach_flags: 0,
        revision: 0,
    };
    match bpf(cmd::PROG_QUERY, &mut attr) {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let count = (attr.count as usize).min(MOST);
    Ok(programs.iter().zip(&links).take(count).map(|(&program, &link)| AtHook { program, link }).collect())
}
