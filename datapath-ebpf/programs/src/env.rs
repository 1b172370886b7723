//! What both kinds of packets share: maps, configuration, time.

/// The methods of [`datapath::Env`] that do not touch the packet.
macro_rules! maps_and_time {
    () => {
        #[inline(always)]
        fn now_seconds(&self) -> u32 {
            let hz = config::ticks_per_second(ReadOnly) as u64;
            // SAFETY: no arguments. The kernel makes a load of the first.
            unsafe {
                if hz != 0 {
                    return (helpers::bpf_jiffies64().wrapping_sub(config::ticks_base(ReadOnly)) / hz) as u32;
                }
                (helpers::bpf_ktime_get_coarse_ns() / 1_000_000_000) as u32
            }
        }

        type Node = ReadOnly;

        #[inline(always)]
        fn node(&self) -> ReadOnly {
            ReadOnly
        }

        #[inline(always)]
        fn runtime(&self, value: Runtime) -> u64 {
            match maps::RUNTIME_CONFIG.get(&(value as u32)) {
                Some(value) => *value,
                None => 0,
            }
        }

        #[inline(always)]
        fn keep(&mut self, kept: &Kept) -> Option<()> {
            let to = maps::KEPT.get_mut(&0)?;
            // SAFETY: a live reference.
            unsafe { words::copy(kept, to) };
            Some(())
        }

        #[inline(always)]
        fn kept(&self) -> Option<&Kept> {
            maps::KEPT.get(&0)
        }

        #[inline(always)]
        fn device(&self, ifindex: u32) -> Option<&Device> {
            maps::DEVICES.get(&ifindex)
        }

        #[inline(always)]
        fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointInfo> {
            maps::LXC.get(key)
        }

        #[inline(always)]
        fn ipcache(&self, key: &IpcacheKey) -> Option<&IpcacheEntry> {
            maps::IPCACHE.get(key)
        }

        #[inline(always)]
        fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
            maps::POLICY.get(key)
        }

        #[inline(always)]
        fn count(&mut self, key: &MetricsKey, bytes: u32) {
            if let Some(value) = maps::METRICS.get_mut(&key.index()) {
                value.count = value.count.wrapping_add(1);
                value.bytes = value.bytes.wrapping_add(bytes as u64);
            }
        }
    };
}
pub(crate) use maps_and_time;

/// The methods of [`datapath::NodeportEnv`] that do not touch the packet.
macro_rules! nodeport_maps {
    () => {
        #[inline(always)]
        fn has_socket<F: Balanced>(&mut self, local: &End<F::Addr>, remote: &End<F::Addr>, protocol: u8) -> bool {
            crate::route::has_socket::<F>(self.context(), local, remote, protocol)
        }

        #[inline(always)]
        fn known_way(&mut self, place: u32) -> Option<&mut KnownWay> {
            maps::KNOWN_WAYS.get_mut(&place)
        }

        #[inline(always)]
        fn serves(&self, key: &LbAffinityMatch) -> bool {
            maps::LB_AFFINITY_MATCH.get(key).is_some()
        }

        #[inline(always)]
        fn bucket(&mut self, key: &RateKey) -> Option<&mut RateBucket> {
            maps::RATELIMIT.get_mut(key)
        }

        #[inline(always)]
        fn set_bucket(&mut self, key: &RateKey, bucket: &RateBucket) -> Option<()> {
            maps::RATELIMIT.set(key, bucket)
        }

        #[inline(always)]
        fn now_ns(&self) -> u64 {
            // SAFETY: no arguments.
            unsafe { helpers::bpf_ktime_get_coarse_ns() }
        }
    };
}
pub(crate) use nodeport_maps;

/// Implements the north-south maps of one family for one kind of packet.
macro_rules! nodeport_family {
    ($packet:ty, $family:ty, $allocate:path, $snat:ident, $maglev:ident, $affinity:ident, $ranges:ident, $excluded:ident) => {
        impl datapath::NodeportMaps<$family> for $packet {
            #[inline(always)]
            fn snat(
                &mut self,
                key: &<$family as datapath::Balanced>::SnatKey,
            ) -> Option<&<$family as datapath::Balanced>::SnatEntry> {
                maps::$snat.get_through_scratch(key)
            }
            #[inline(always)]
            fn snat_new(
                &mut self,
                key: &<$family as datapath::Balanced>::SnatKey,
                entry: &<$family as datapath::Balanced>::SnatEntry,
            ) -> Option<()> {
                maps::$snat.set_new(key, entry)
            }
            #[inline(always)]
            fn allocate(&mut self, wish: &datapath::Wish<$family>) -> u16 {
                let Some(scratch) = maps::WISH.get_mut(&0) else { return 0 };
                let to = core::ptr::from_mut(scratch).cast::<datapath::Wish<$family>>();
                // SAFETY: there is room for the wish of either family, which is words without padding.
                unsafe {
                    words::copy_words(wish, to);
                    $allocate(to) as u16
                }
            }
            #[inline(always)]
            fn snat_forget(&mut self, key: &<$family as datapath::Balanced>::SnatKey) {
                maps::$snat.remove(key);
            }
            #[inline(always)]
            fn maglev(&self, index: abi::be::Port, slot: u32) -> Option<u32> {
                maps::$maglev.get(&index.raw, slot)
            }
            #[inline(always)]
            fn affinity(
                &mut self,
                key: &<$family as datapath::Balanced>::AffinityKey,
            ) -> Option<&mut abi::lb::LbAffinity> {
                maps::$affinity.get_mut(key)
            }
            #[inline(always)]
            fn keep(
                &mut self,
                key: &<$family as datapath::Balanced>::AffinityKey,
                affinity: &abi::lb::LbAffinity,
            ) -> Option<()> {
                maps::$affinity.set(key, affinity)
            }
            #[inline(always)]
            fn is_excluded(&self, key: &<$family as datapath::Balanced>::Exclusion) -> bool {
                maps::$excluded.get(key).is_some()
            }
            #[inline(always)]
            fn in_source_range(&self, key: &<$family as datapath::Balanced>::SourceRange) -> bool {
                maps::$ranges.get(key).is_some()
            }
        }
    };
}
pub(crate) use nodeport_family;

/// Implements the maps of one family for one kind of packet.
macro_rules! family {
    ($packet:ty, $family:ty, $services:ident, $backends:ident, $reverse_nat:ident, $tcp:ident, $any:ident, $fragments:ident) => {
        impl datapath::FamilyMaps<$family> for $packet {
            #[inline(always)]
            fn service(&self, key: &<$family as datapath::Family>::LbKey) -> Option<&abi::lb::LbService> {
                maps::$services.get(key)
            }
            #[inline(always)]
            fn backend(&self, id: u32) -> Option<&<$family as datapath::Family>::Backend> {
                maps::$backends.get(&id)
            }
            #[inline(always)]
            fn reverse_nat(&self, index: abi::be::Port) -> Option<&<$family as datapath::Family>::RevNat> {
                maps::$reverse_nat.get(&index.raw)
            }
            #[inline(always)]
            fn connection(
                &mut self,
                tcp: bool,
                key: &<$family as datapath::Family>::CtKey,
            ) -> Option<&mut <$family as datapath::Family>::CtEntry> {
                if tcp { maps::$tcp.get_mut(key) } else { maps::$any.get_mut(key) }
            }
            #[inline(always)]
            fn track(
                &mut self,
                tcp: bool,
                key: &<$family as datapath::Family>::CtKey,
                entry: &<$family as datapath::Family>::CtEntry,
            ) -> Option<()> {
                if tcp { maps::$tcp.set(key, entry) } else { maps::$any.set(key, entry) }
            }
            #[inline(always)]
            fn fragment(&self, key: &<$family as datapath::Family>::FragKey) -> Option<&abi::frag::FragPorts> {
                maps::$fragments.get(key)
            }
            #[inline(always)]
            fn track_fragment(
                &mut self,
                key: &<$family as datapath::Family>::FragKey,
                ports: &abi::frag::FragPorts,
            ) -> Option<()> {
                maps::$fragments.set(key, ports)
            }
        }
    };
}
pub(crate) use family;
