//! Addresses that are asked for, and those an endpoint comes with.

use alloc::vec::Vec;
use core::net::IpAddr;

use endpoint::EndpointName;
use machine::Instant;

use crate::agent::Agent;
use crate::effect::{Refusal, Response};
use crate::input::{AddressOwner, CreateEndpoint, IpamRequest};

type Answer = Result<Response, Refusal>;

impl Agent {
    pub(crate) fn ipam_request(&mut self, now: Instant, request: IpamRequest) -> Answer {
        match request {
            IpamRequest::Allocate { family, owner, expires } => self.allocate(now, family, &owner, expires),
            IpamRequest::Reserve { ip, owner } => Ok(self.ipam.reserve(ip, &owner).map(|()| Response::Done)?),
            IpamRequest::Release(ip) => match self.endpoints.find(&EndpointName::Ip(ip)) {
                Some(endpoint) => Err(Refusal::OfEndpoint { ip, owner: endpoint.id }),
                None => Ok(self.ipam.release(ip).map(|()| Response::Done)?),
            },
        }
    }

    fn allocate(&mut self, now: Instant, family: Option<ipam::Family>, owner: &str, expires: bool) -> Answer {
        let wanted: Vec<_> = match family {
            Some(family) => alloc::vec![family],
            None => [ipam::Family::V4, ipam::Family::V6].into_iter().filter(|f| self.ipam.has(*f)).collect(),
        };
        let mut loans: Vec<ipam::Loan> = Vec::new();
        for family in wanted {
            match self.ipam.allocate(now, family, owner, expires) {
                Ok(loan) => loans.push(loan),
                Err(refusal) => {
                    // All or nothing: what was lent a moment ago goes back.
                    for loan in loans {
                        self.ipam.release(loan.addr).expect("it was lent a moment ago");
                    }
                    return Err(refusal.into());
                }
            }
        }
        Ok(Response::Allocated(loans))
    }

    /// Confirms the loans of an endpoint's addresses, or takes the addresses now. All or nothing.
    pub(crate) fn take_addresses(&mut self, create: &CreateEndpoint) -> Result<(), Refusal> {
        if create.addresses == AddressOwner::External {
            return Ok(());
        }
        let owner = create.spec.pod_name().or_else(|| create.spec.attachment_id()).unwrap_or_default();
        let loans = [create.ipv4_loan, create.ipv6_loan];
        let addrs = [create.spec.ipv4.map(IpAddr::V4), create.spec.ipv6.map(IpAddr::V6)];
        let mut reserved: Vec<IpAddr> = Vec::new();
        for (addr, loan) in addrs.into_iter().zip(loans).filter_map(|(addr, loan)| Some((addr?, loan))) {
            let taken = match (loan, self.ipam.loan(addr)) {
                (Some(loan), _) => self.ipam.confirm(addr, loan),
                (None, Some(have)) if have.expires.is_none() && !self.is_node_address(addr) => Ok(()),
                (None, Some(_)) => Err(ipam::Refusal::InUse(addr)),
                (None, None) => self.ipam.reserve(addr, &owner).inspect(|()| reserved.push(addr)),
            };
            if let Err(refusal) = taken {
                for addr in reserved {
                    self.ipam.release(addr).expect("it was reserved a moment ago");
                }
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    fn is_node_address(&self, addr: IpAddr) -> bool {
        let families = [&self.config.ipv4, &self.config.ipv6];
        families.into_iter().flatten().any(|family| family.router == addr || family.node_addrs.contains(&addr))
    }
}
