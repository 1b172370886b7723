//! Links, addresses, routes and neighbours through rtnetlink.
