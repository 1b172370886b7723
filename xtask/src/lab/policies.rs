//! The policies of the tutorial, as a user would write them.

/// Only frontends may speak HTTP to backends.
pub(super) const BACKENDS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: backend-from-frontend
  namespace: shop
spec:
  endpointSelector:
    matchLabels: {app: backend}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: frontend}
    toPorts:
    - ports:
      - {port: \"80\", protocol: TCP}
";

/// Frontends may leave the cluster to one address of each family only.
pub(super) const OUTSIDE: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: frontend-outside
  namespace: shop
spec:
  endpointSelector:
    matchLabels: {app: frontend}
  egress:
  - toEndpoints:
    - matchLabels: {app: backend}
  - toCIDR:
    - 192.168.250.2/32
    - fd00:250::2/128
";

/// Frontends may leave to a prefix, but not to a part of it.
pub(super) const EXCEPT: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: frontend-outside
  namespace: shop
spec:
  endpointSelector:
    matchLabels: {app: frontend}
  egress:
  - toEndpoints:
    - matchLabels: {app: backend}
  - toCIDRSet:
    - cidr: 192.168.250.0/24
      except: [192.168.250.128/25]
    - cidr: fd00:250::/64
      except: ['fd00:250::8000/113']
";

/// Whatever else is allowed, canaries do not reach backends.
pub(super) const DENY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: no-canary
  namespace: shop
spec:
  endpointSelector:
    matchLabels: {app: backend}
  ingressDeny:
  - fromEndpoints:
    - matchLabels: {track: canary}
";
