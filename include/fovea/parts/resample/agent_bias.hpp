// The biases of agent attention in its vision form, from their learned factors: a small table for each agent, resized
// to the grid, plus one number for each row and one for each column. Han et al., ECCV 2024, arXiv:2312.08874.
#pragma once

#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/parts/resample/bilinear.hpp>

namespace fovea::inline FOVEA_ISA {

namespace detail {

template <class T>
void check_factor(const char* where, const char* name, const View<const T>& x, Index heads, Index second, Index third,
                  Index fourth) {
  check(x.batch == heads && x.heads == second && x.length == third && x.dim == fourth, where, name, " must be [", heads,
        ", ", second, ", ", third, ", ", fourth, "], got [", x.batch, ", ", x.heads, ", ", x.length, ", ", x.dim, "]");
}

// A learned square table [H, n, s, s] on the grid, [H, n, height width].
template <class T>
std::vector<T> agent_bias_on_grid(const char* where, const View<const T>& table, Index heads, Index number,
                                  Index height, Index width) {
  check_factor(where, "the table of the grid", table, heads, number, table.length, table.dim);
  check(table.length > 0 && table.dim > 0 && table.length_stride == table.dim, where,
        "the table of the grid must be contiguous and not empty, got ", table.length, " times ", table.dim);
  View<const T> places = table;
  places.length = table.length * table.dim;
  places.length_stride = places.dim = 1;
  std::vector<T> result(std::size_t(heads * number * height * width));
  resample::bilinear(places, table.length, table.dim, view(result.data(), {heads, number, height * width, 1}), height,
                     width);
  return result;
}

}  // namespace detail

// B1 from its learned factors, to be made once and kept: for agent a and the key at (y, x)
//   B1_a,(y,x) = grid table a, bilinear, at (y, x) + rows_a,y + columns_a,x,   and class_a for the class token
// grid [H,n,s,s], rows [H,n,height,1], columns [H,n,1,width], class_token [H,n,1] or an empty View when there is none,
// bias [H,n,M].
template <class G, class R, class C, class Class, class Out>
void agent_collect_bias(const G& grid, const R& rows, const C& columns, const Class& class_token, Out&& bias) {
  constexpr auto where = "fovea::agent_collect_bias";
  const auto out = view(bias);
  using T = std::remove_pointer_t<decltype(out.data)>;
  const View<const T> down = view(rows), across = view(columns), token = view(class_token);
  const Index heads = out.heads, number = out.length, height = down.length, width = across.dim;
  const Index before = token.data != nullptr ? 1 : 0;
  detail::check_factor(where, "rows", down, heads, number, height, 1);
  detail::check_factor(where, "columns", across, heads, number, 1, width);
  if (before == 1) detail::check_factor(where, "class_token", token, 1, heads, number, 1);
  check(out.batch == 1 && out.dim == height * width + before, where, "bias must hold the grid, wanted [", heads, ", ",
        number, ", ", height * width + before, "], got [", heads, ", ", number, ", ", out.dim, "]");
  const std::vector<T> places = detail::agent_bias_on_grid<T>(where, view(grid), heads, number, height, width);
  for (Index h = 0; h < heads; ++h) {
    for (Index a = 0; a < number; ++a) {
      T* const to = out.row(0, h, a);
      const T* const from = places.data() + (h * number + a) * height * width;
      if (before == 1) to[0] = *token.row(0, h, a);
      for (Index y = 0; y < height; ++y) {
        for (Index x = 0; x < width; ++x)
          to[before + y * width + x] = from[y * width + x] + *down.row(h, a, y) + across.row(h, a, 0)[x];
      }
    }
  }
}

// B2 from its learned factors: for the query at (y, x) and agent a
//   B2_(y,x),a = grid table a, bilinear, at (y, x) + rows_y,a + columns_x,a,   and class_a for the class token
// grid [H,n,s,s], rows [H,height,1,n], columns [H,1,width,n], class_token [H,1,n] or an empty View when there is none,
// bias [H,N,n].
template <class G, class R, class C, class Class, class Out>
void agent_ask_bias(const G& grid, const R& rows, const C& columns, const Class& class_token, Out&& bias) {
  constexpr auto where = "fovea::agent_ask_bias";
  const auto out = view(bias);
  using T = std::remove_pointer_t<decltype(out.data)>;
  const View<const T> down = view(rows), across = view(columns), token = view(class_token);
  const Index heads = out.heads, number = out.dim, height = down.heads, width = across.length;
  const Index before = token.data != nullptr ? 1 : 0;
  detail::check_factor(where, "rows", down, heads, height, 1, number);
  detail::check_factor(where, "columns", across, heads, 1, width, number);
  if (before == 1) detail::check_factor(where, "class_token", token, 1, heads, 1, number);
  check(out.batch == 1 && out.length == height * width + before, where, "bias must hold the grid, wanted [", heads,
        ", ", height * width + before, ", ", number, "], got [", heads, ", ", out.length, ", ", number, "]");
  const std::vector<T> places = detail::agent_bias_on_grid<T>(where, view(grid), heads, number, height, width);
  for (Index h = 0; h < heads; ++h) {
    for (Index a = 0; a < number; ++a) {
      const T* const from = places.data() + (h * number + a) * height * width;
      if (before == 1) out.row(0, h, 0)[a] = token.row(0, h, 0)[a];
      for (Index y = 0; y < height; ++y) {
        for (Index x = 0; x < width; ++x)
          out.row(0, h, before + y * width + x)[a] =
              from[y * width + x] + down.row(h, y, 0)[a] + across.row(h, 0, x)[a];
      }
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA
