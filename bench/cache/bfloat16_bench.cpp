#include "decode.hpp"

namespace {

const bool added = bench::cached::add<Eigen::bfloat16>("bf16", {"paged_16", "paged_16_strewn"});

}  // namespace
