//! Questions about policy: what the rules in force say, and what others would.
//!
//! They are answered on a copy of the engine, outside the drive loop, one at a time: a question about a large cluster
//! may take a second, and nothing that matters waits for it.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_core::Agent;
use api::models::{ExplainRequest, LintRequest, ObjectRef, PreviewRequest, Traffic};
use api::server::Reply;
use policy::{EndpointFacts, Engine, ObjectKey, PolicyObject};
use questions::{BadQuestion, Known, Tally, Workloads};
use tokio::sync::Semaphore;
use types::{EndpointId, Labels, NumericIdentity};

use super::{Answered, Rest, closed};
use crate::rest::refused::{self, Call};

/// One question at a time: each holds a copy of the engine.
static TURN: Semaphore = Semaphore::const_new(1);

/// The furthest a preview looks back.
const SINCE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What the node knows, at one moment.
struct Moment {
    engine: Engine,
    endpoints: Vec<(Known, Vec<IpAddr>)>,
}

impl Moment {
    fn of(agent: &Agent) -> Self {
        let engine = agent.engine().clone();
        let endpoints = agent.endpoints().map(|endpoint| {
            let addrs: Vec<IpAddr> = endpoint.spec.addresses().collect();
            let pod = endpoint.spec.pod.as_ref().map_or_else(String::new, |p| format!("{}/{}", p.namespace, p.name));
            let facts = EndpointFacts {
                labels: endpoint.identity_labels.clone(),
                named_ports: engine.named_ports(endpoint.id).to_vec(),
                host: false,
                audit: false,
            };
            (Known { endpoint: endpoint.id, pod, addr: addrs.first().copied(), facts }, addrs)
        });
        let endpoints = endpoints.collect();
        Self { engine, endpoints }
    }

    fn find(&self, wanted: impl Fn(&Known, &[IpAddr]) -> bool) -> Option<Known> {
        self.endpoints.iter().find(|(known, addrs)| wanted(known, addrs)).map(|(known, _)| known.clone())
    }
}

impl Workloads for Moment {
    fn endpoint(&self, id: EndpointId) -> Option<Known> {
        self.find(|known, _| known.endpoint == id)
    }
    fn pod(&self, name: &str) -> Option<Known> {
        self.find(|known, _| known.pod == name)
    }
    fn at(&self, addr: IpAddr) -> Option<Known> {
        self.find(|_, addrs| addrs.contains(&addr))
    }
    fn identity_at(&self, addr: IpAddr) -> Option<NumericIdentity> {
        self.engine.lookup_address(addr).map(|(_, identity, _)| identity)
    }
    fn labels_of(&self, id: NumericIdentity) -> Option<Labels> {
        self.engine.labels_of(id).cloned()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function of an error")]
fn wrong(question: BadQuestion) -> Reply {
    Reply::error(400, format!("field {question}"))
}

impl Rest {
    pub(super) async fn explain(&self, question: ExplainRequest) -> Answered {
        let _turn = TURN.acquire().await;
        let moment = self.core.look(Moment::of).await.map_err(closed)?;
        aside(move || Ok(Reply::ok(&questions::explain(&moment.engine, &moment, &question).map_err(wrong)?))).await
    }

    pub(super) async fn preview(&self, question: PreviewRequest) -> Answered {
        let PreviewRequest { put, delete, traffic, since_seconds } = question;
        let delete: Vec<ObjectKey> = delete.iter().enumerate().map(named).collect::<Result<_, _>>().map_err(wrong)?;
        let traffic = match since_seconds {
            None => traffic,
            Some(_) if traffic != Traffic::default() => {
                return Err(Reply::error(400, "field since-seconds: it cannot be combined with traffic"));
            }
            Some(seconds) => self.recorded(Duration::from_secs(seconds)).await?,
        };
        let _turn = TURN.acquire().await;
        let (moment, put) = self.moment_and_objects(put).await?;
        aside(move || {
            let answer = questions::preview(&moment.engine, &moment, &put, &delete, &traffic).map_err(wrong)?;
            Ok(Reply::ok(&answer))
        })
        .await
    }

    pub(super) async fn lint(&self, question: LintRequest) -> Answered {
        let _turn = TURN.acquire().await;
        let (moment, objects) = self.moment_and_objects(question.documents).await?;
        aside(move || Ok(Reply::ok(&questions::lint(&moment.engine, &objects, false).map_err(wrong)?))).await
    }

    async fn moment_and_objects(&self, put: Vec<serde_json::Value>) -> Result<(Moment, Vec<PolicyObject>), Reply> {
        let look = move |agent: &Agent| agent.read_policies(put).map(|objects| (Moment::of(agent), objects));
        let read = self.core.look(look).await.map_err(closed)?;
        read.map_err(|refusal| refused::reply(Call::Other, &refusal))
    }

    /// The node's own flows.
    async fn recorded(&self, since: Duration) -> Result<Traffic, Reply> {
        if since > SINCE_MAX {
            return Err(Reply::error(400, "field since-seconds: a year is the most there can be"));
        }
        let Some(observer) = self.observer.clone() else {
            let why = "field since-seconds: Hubble is not enabled, so no flow is recorded; send recorded flows instead";
            return Err(Reply::error(400, why));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let from_ns = i64::try_from(now.saturating_sub(since).as_nanos()).unwrap_or(i64::MAX);
        aside(move || {
            let mut tally = Tally::default();
            let taken = observer.recorded_flows(from_ns, |flow| tally.flow(flow));
            taken.map_err(|why| Reply::error(400, format!("field since-seconds: {why}")))?;
            Ok(tally.finish())
        })
        .await
    }
}

fn named((index, object): (usize, &ObjectRef)) -> Result<ObjectKey, BadQuestion> {
    questions::object_key(&format!("delete[{index}]"), object)
}

/// Works where nobody else waits.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Reply> + Send + 'static) -> Result<T, Reply> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(_) => Err(Reply::error(500, "the question could not be worked on; see the agent's log")),
    }
}
