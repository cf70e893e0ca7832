// SPDX-License-Identifier: Apache-2.0
// The ways one kernel is run: every instruction set of this build and machine, every order of the emulated
// device's threads.
#pragma once

#include "common/isa.h"
#include "testing.h"
#ifdef FASTREID_EMULATED
#include "emulation/engine.h"
#endif

namespace testing {

template <typename Body>
void for_every_isa(Body body) {
  for (const auto isa :
       {fastreid::Isa::baseline, fastreid::Isa::avx2, fastreid::Isa::avx512, fastreid::Isa::avx512_bf16}) {
    if (!fastreid::set_isa(isa)) continue;
    Trying trying(fastreid::isa_name(isa));
    body();
  }
  fastreid::set_isa(fastreid::best_isa());
}

#ifdef FASTREID_EMULATED
template <typename Body>
void for_every_order(Body body) {
  using fastreid::emulation::Order;
  constexpr struct {
    Order order;
    const char* name;
  } kOrders[] = {{Order::forward, "threads forward"},
                 {Order::reverse, "threads in reverse"},
                 {Order::seeded, "threads shuffled"}};
  for (const auto& each : kOrders) {
    fastreid::emulation::set_order(each.order, 20);
    Trying trying(each.name);
    body();
  }
  fastreid::emulation::set_order(Order::forward);
}
#endif

}  // namespace testing
