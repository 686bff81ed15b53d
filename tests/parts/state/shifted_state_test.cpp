#include "support/catch.hpp"

#include <fovea/parts/state/shifted_state.hpp>

#include "support/parts.hpp"

using fovea::Extents;
using fovea::MatrixState;
using fovea::ShiftedState;

TEST_CASE("a shifted state has no shape until it is given one, and fits its own shape alone", "[parts][state]") {
  ShiftedState<float> state;
  CHECK(state.empty());
  const auto refusal = [&](const Extents& wanted, bool sums) {
    return support::refusal([&] { fovea::state::check_shape("test", state, wanted, sums); });
  };
  CHECK(refusal({2, 3, 4, 5}, true) == "accepted");
  state.matrix = MatrixState<float>(2, 3, 4, 5, true);
  CHECK_FALSE(state.empty());
  CHECK(refusal({2, 3, 4, 5}, true) ==
        "test: the state must have one shift for each batch and head of k, wanted 6, got 0");
  state.shift.assign(6, 0.f);
  CHECK(refusal({2, 3, 4, 5}, true) == "accepted");
  CHECK(refusal({2, 3, 4, 6}, true) ==
        "test: the state must have the shape of the call, wanted [2, 3, 4, 6], got [2, 3, 4, 5]");
  CHECK(refusal({2, 3, 4, 5}, false) == "test: the state must not have a column of sums");
}

TEST_CASE("an output comes with a state of either kind, or alone", "[parts][state]") {
  int out = 0;
  ShiftedState<float> shifted;
  MatrixState<float> matrix;
  auto with_shifted = fovea::with_state(out, shifted);
  auto with_matrix = fovea::with_state(out, matrix);
  CHECK(&fovea::state::plain_output(with_shifted) == &out);
  CHECK(&fovea::state::plain_output(with_matrix) == &out);
  CHECK(&fovea::state::plain_output(out) == &out);
  CHECK(fovea::state::kernelised<float, true>(with_shifted) == &shifted);
  CHECK(fovea::state::kernelised<float, false>(with_matrix) == &matrix);
  CHECK(fovea::state::kernelised<float, true>(out) == nullptr);
  CHECK(fovea::state::kernelised<float, false>(out) == nullptr);
}
