//! GC: endpoints whose attachment the runtime no longer knows go.

use netconf::{Attachment, Code, Failure, host_interface_name};
use netlink::Netlink;

use crate::Call;
use crate::agent::code_of;

pub(crate) fn gc(call: &Call<'_>) -> Result<(), Failure> {
    let Some(valid) = &call.conf.valid_attachments else {
        let msg = "GC needs \"cni.dev/valid-attachments\" in the configuration; without it everything would go";
        return Err(Failure::new(Code::InvalidConfig, msg));
    };
    let agent = call.agent();
    let failed = |step, e| Failure::new(code_of(&e), step).with_details(e);
    agent.wait(call.settings.add_patience).map_err(|e| failed("unable to connect to Cilium agent", e))?;
    let mut first_failure = None;
    for endpoint in agent.endpoints().map_err(|e| failed("unable to list endpoints", e))? {
        // Endpoints that no runtime made (the host's own) have no attachment.
        let Some(attachment) = attachment(&endpoint.status.external_identifiers.cni_attachment_id) else { continue };
        if valid.contains(&attachment) {
            continue;
        }
        call.log.warn(&format!("endpoint {} of {} is no longer known to the runtime", endpoint.id, attachment.id()));
        if let Err(error) = agent.delete(&attachment) {
            first_failure.get_or_insert(failed("unable to delete an endpoint", error));
            continue;
        }
        if let Err(error) = Netlink::open().and_then(|mut host| host.delete_link(&host_interface_name(&attachment))) {
            call.log.warn(&error.to_string());
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Container ids have no colon, interface names neither.
fn attachment(id: &str) -> Option<Attachment> {
    let (container_id, ifname) = id.split_once(':')?;
    Some(Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
}
