use super::*;

#[test]
fn a_change_request_prints_the_references_names_and_leaves_zero_values_out() {
    let request = EndpointChangeRequest {
        container_id: "abc".into(),
        k8s_namespace: "default".into(),
        state: EndpointState::WaitingForIdentity,
        addressing: AddressPair { ipv4: "10.0.0.1".into(), ..AddressPair::default() },
        sync_build_endpoint: true,
        ..EndpointChangeRequest::default()
    };
    let text = serde_json::to_string(&request).expect("plain data");
    assert_eq!(
        text,
        r#"{"container-id":"abc","state":"waiting-for-identity","addressing":{"ipv4":"10.0.0.1"},"k8s-namespace":"default","sync-build-endpoint":true}"#
    );
    assert_eq!(serde_json::from_str::<EndpointChangeRequest>(&text).expect("own output"), request);
}

#[test]
fn an_unknown_state_is_refused_by_name() {
    let error = serde_json::from_str::<EndpointChangeRequest>(r#"{"state":"sleeping"}"#).expect_err("no such state");
    assert!(error.to_string().contains("sleeping"), "{error}");
}

#[test]
fn mixed_naming_of_the_reference_is_kept() {
    let status = DaemonConfigurationStatus { device_mtu: 1500, ipam_mode: "cluster-pool".into(), ..Default::default() };
    let value = serde_json::to_value(&status).expect("plain data");
    assert_eq!(value["deviceMTU"], 1500);
    assert_eq!(value["ipam-mode"], "cluster-pool");
}
